"""`ldm show`: what its page is made of, and who gets it."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm.core.errors import ConfigError, DataError
from ldm.core.images.decode import write_png
from ldm.core.images.grid import cells, grid, scale_for
from ldm.core.progress import Silent
from ldm.stages.configs.show import Show
from ldm.stages.tools import show
from ldm.stages.tools.show import Site
from ldm.stages.tools.showing.server import HOST, Server
from tests.support.pipeline_run import Pipeline

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = b'<script>alert("read")</script>'


class Client:
    """Asks the page of a run for addresses."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.folder = pipeline.folder
        self.site = Site(Show(name=pipeline.name, runs_dir=pipeline.runs_dir, device="cpu"))
        self.server = Server(0, self.site.content, self.site.draw)
        self.port = self.server.server_address[1]

    def ask(self, address: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=60)
        connection.putrequest(method, address, skip_host=True)
        for name, value in {"Host": f"{HOST}:{self.port}", **headers}.items():
            connection.putheader(name, value)
        if body is not None and "Content-Length" not in headers:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        self.headers = dict(answer.getheaders())
        return answer.status, answer.read()

    def get(self, address: str) -> tuple[int, bytes]:
        return self.ask(f"/{self.server.token}/{address}")

    def state(self) -> dict[str, Any]:
        return dict(json.loads(self.get("state")[1]))


@pytest.fixture
def client(trained: Pipeline, tmp_path: Path) -> Iterator[Client]:
    asking = Client(trained.copy(tmp_path))
    thread = threading.Thread(target=asking.server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield asking
    asking.server.shutdown()
    asking.server.server_close()


def test_the_page_its_state_and_its_pictures_are_had_with_the_token(client: Client) -> None:
    status, page = client.get("")
    nonce = re.search(r"'nonce-([\w-]+)'", client.headers["Content-Security-Policy"])
    assert status == 200 and nonce is not None and f'nonce="{nonce[1]}"'.encode() in page
    state = client.state()
    assert [stage["title"] for stage in state["stages"]] == ["Autoencoder", "Latents", "Denoiser", "Classifier"]
    assert state["condition"] == {"kind": "labels", "names": ["blue", "green", "red"]}
    ((seen, address), *_), (divided,) = state["previews"][0]["pictures"], state["reconstructions"]
    assert seen == 0 and divided["cells"] == {"rows": 2, "columns": 2, "side": 64, "step": 66, "left": 58, "top": 2}
    assert client.get(address) == (200, (client.folder / address).read_bytes())


def test_a_poll_reads_the_run_once_however_many_pictures_it_shows(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings, read = [], show.read_run

    def counted(*given: Any) -> Any:
        readings.append(given)
        return read(*given)

    monkeypatch.setattr(show, "read_run", counted)
    state = client.state()
    pictures = [
        address for kind in ("previews", "reconstructions") for each in state[kind] for _, address in each["pictures"]
    ]
    assert len(pictures) > 2 and all(client.get(address)[0] == 200 for address in pictures)
    assert len(readings) == 1


def test_nothing_is_had_without_the_token_or_under_another_name_of_the_host(client: Client) -> None:
    token, port = client.server.token, client.port
    assert len(token) >= 32 and client.server.server_address[0] == "127.0.0.1"
    for address in ("/", "/state", f"/{token[:-1]}/state", f"/{token}x/state", "//state", f"/x/{token}/state", "*"):
        assert client.ask(address)[0] == 404, address
    for host in ("evil.example", f"evil.example:{port}", HOST, f"{HOST}:{port + 1}", f"{HOST}.evil.example:{port}", ""):
        assert client.ask(f"/{token}/state", Host=host) == (403, b"another host\n")
    assert client.ask(f"/{token}/state", Host=f"localhost:{port}")[0] == 200
    assert client.ask(f"/{token}/draw", "POST", b"{}", Origin="http://evil.example") == (403, b"another origin\n")
    assert client.ask(f"/{token}/state", "PUT")[0] == 501


@pytest.mark.parametrize(
    "address",
    [
        "../../../../../../etc/passwd",
        "..%2f..%2f..%2fetc/passwd",
        "/etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "dit/samples/../../dit/manifest.json",
        "dit/manifest.json",
        "dit/final/model.safetensors",
        "dit/samples/0000000000.png/",
        "dit/samples/0000000000.png?x=1",
        "drawn/0.png",
        "show.html",
    ],
)
def test_no_address_is_a_path(client: Client, address: str) -> None:
    assert client.get(address) == (404, b"not found\n")


def test_links_out_of_the_run_and_what_is_no_picture_are_not_shown(client: Client, tmp_path: Path) -> None:
    samples, outside = client.folder / "dit" / "samples", tmp_path / "private.png"
    write_png(outside, np.full((8, 8, 3), 77, np.uint8))
    (samples / "0000000048.png").symlink_to(outside)
    (samples / "0000000056.png").write_bytes(HOSTILE)
    os.mkfifo(samples / "0000000060.png")
    for name in ("0000000048.png", "0000000056.png", "0000000060.png"):
        assert client.get(f"dit/samples/{name}") == (404, b"not found\n")
    report = client.get("report")[1]
    assert "script-src" not in client.headers["Content-Security-Policy"]
    assert b"Samples after 48 images" not in report and b"Samples after 64 images" in report and HOSTILE not in report


def test_reconstructions_that_are_no_pictures_of_the_run_are_left_out(client: Client, tmp_path: Path) -> None:
    assert client.state()["reconstructions"]
    first, outside = min((client.folder / "vqvae" / "reconstructions").glob("*.png")), tmp_path / "private.png"
    first.replace(outside)
    first.symlink_to(outside)
    assert not client.state()["reconstructions"]
    first.unlink()
    first.write_bytes(HOSTILE)
    assert not client.state()["reconstructions"]
    first.unlink()
    os.mkfifo(first)
    assert not client.state()["reconstructions"]


def test_forms_that_are_too_large_or_no_json_or_of_unknown_fields_start_nothing(client: Client) -> None:
    place = f"/{client.server.token}/draw"
    assert client.ask(place, "POST", b"{}", **{"Content-Length": "9999999"})[0] == 413
    assert client.ask(place, "POST", b"{}", **{"Content-Length": "-1"})[0] == 413
    assert client.ask(place, "POST", b"{")[0] == 400 and client.ask(place, "POST", b"[]")[0] == 400
    assert client.ask(f"/{client.server.token}/state", "POST", b"{}")[0] == 404
    answer = json.loads(client.ask(place, "POST", b'{"replace": "yes", "--denoiser": "/etc"}')[1])
    assert answer == {"error": "not a setting of the form: --denoiser, replace"}
    assert json.loads(client.ask(place, "POST", json.dumps({"prompt": "x" * 2000}).encode())[1])["error"]
    assert not client.site.drawing.running and client.site.drawing.count == 0


@pytest.mark.slow
def test_a_training_that_goes_on_is_shown_with_how_far_it_is_and_the_report_is_made_again(client: Client) -> None:
    assert client.get("report")[0] == 200
    before = client.state()["version"]
    (client.folder / "dit" / "manifest.json").unlink()
    (denoiser,) = (stage for stage in client.state()["stages"] if stage["title"] == "Denoiser")
    assert denoiser["state"] == "unfinished" and denoiser["counts"] == [64, 64]
    assert client.state()["version"] == before, "the report rests for a while after it was made"
    client.site._rest_until = 0.0
    assert client.state()["version"] != before and b'<li class="unfinished">' in client.get("report")[1]


@pytest.mark.parametrize(("side", "count", "rows"), [(16, 3, 2), (32, 8, 2), (45, 2, 2), (64, 8, 5), (256, 4, 2)])
def test_the_images_of_a_grid_are_found_again(tmp_path: Path, side: int, count: int, rows: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (rows * count, side, side, 3), dtype=np.uint8)
    names = ["original", *(f"up to {n}" for n in range(rows - 2)), "decoded"]
    picture = grid(images, columns=count, row_labels=names, scale=scale_for(images))
    write_png(tmp_path / "a.png", picture)
    found = cells(tmp_path / "a.png", side)
    assert found is not None and (found["rows"], found["columns"]) == (rows, count)
    x, y = found["left"] + (count - 1) * found["step"], found["top"] + (rows - 1) * found["step"]
    last = picture[y : y + found["side"], x : x + found["side"]]
    assert np.array_equal(last[:: found["side"] // side, :: found["side"] // side], images[-1])
    assert cells(tmp_path / "a.png", side + 1) is None


def test_a_port_in_use_and_a_run_that_is_not_there_are_named(trained: Pipeline) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(ConfigError, match="cannot be listened on"):
            show.run(Show(name=trained.name, runs_dir=trained.runs_dir, port=taken.getsockname()[1]), Silent())
    with pytest.raises(DataError, match="nowhere does not exist"):
        show.run(Show(name="nowhere", runs_dir=trained.runs_dir), Silent())


@contextmanager
def started(pipeline: Pipeline) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Start `ldm show` in a process of its own. Yields it with the address that it gives."""
    command = [sys.executable, "-m", "ldm", "show", pipeline.name, f"--runs-dir={pipeline.runs_dir}", "--device=cpu"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"http://\S+", line)
    assert found is not None, line
    try:
        yield process, found[0]
    finally:
        process.kill()


def wait_for(there: Any, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_page_and_the_drawing_that_it_started(
    trained: Pipeline, tmp_path: Path, number: signal.Signals
) -> None:
    with started(trained.copy(tmp_path)) as (process, address):
        host, token = re.fullmatch(r"http://([\d.:]+)/(.*)/", address).groups()  # type: ignore[union-attr]
        connection = http.client.HTTPConnection(host, timeout=60)
        connection.request("POST", f"/{token}/draw", b'{"num": "100000"}')
        assert json.loads(connection.getresponse().read()) == {"error": ""}
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        own = [int(each) for path in children.parent.parent.glob("*/children") for each in path.read_text().split()]
        assert own and os.getpriority(os.PRIO_PROCESS, own[0]) >= 15
        process.send_signal(number)
        written, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and "is no longer shown" in written
        wait_for(lambda: not any(Path(f"/proc/{each}/cmdline").exists() for each in own), 10)


@pytest.mark.slow
def test_in_a_browser_sliders_the_divider_and_the_form_work(trained: Pipeline, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    pipeline = trained.copy(tmp_path)
    with started(pipeline) as (process, address), playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=browser, args=["--no-sandbox", "--no-proxy-server"])
        page = opened.new_page()
        wrong: list[str] = []
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(address)

        # Previews: at the newest, and where the slider is moved to.
        newest = page.get_by_text("after 64 images").first
        newest.wait_for()
        page.get_by_label("Denoiser: samples of the same seeds: images seen").fill("0")
        assert page.locator("#previews img").get_attribute("src") == "dit/samples/0000000000.png"

        # The divider: all original, then all decoded.
        shown = "canvas => canvas.toDataURL()"
        canvas = page.locator("canvas")
        canvas.and_(page.locator("[data-painted]")).wait_for()
        page.get_by_label("divider", exact=True).fill("100")
        original = canvas.evaluate(shown)
        page.get_by_label("divider", exact=True).fill("0")
        assert canvas.evaluate(shown) != original and canvas.get_attribute("data-painted") == "0"

        # The form draws, what came out is in the run, and a wrong value says why.
        page.fill("input[name=num]", "1")
        page.fill("input[name=steps]", "2")
        page.click("#draw")
        page.locator("#drawn").wait_for(timeout=120_000)
        assert page.locator("#drawn").evaluate("image => image.decode().then(() => image.naturalWidth)") > 64
        assert len(list((pipeline.folder / "samples" / "shown").glob("0*.png"))) == 3
        page.fill("input[name=steps]", "100000")
        page.click("#draw")
        page.locator("#error", has_text="steps").wait_for(timeout=120_000)

        # The report lies in the page; once the server has ended, the page says so.
        assert page.frame_locator("#report").locator("h1").inner_text() == f"Run {pipeline.name}"
        assert wrong == []
        process.send_signal(signal.SIGTERM)
        page.locator("#gone").wait_for(timeout=30_000)
        opened.close()
        assert process.wait(60) == 0
