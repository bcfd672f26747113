"""Frozen text encoders of the library transformers, from local folders: CLIP, T5, BERT and its kin, decoders.

Each text is read alone, unpadded as far as its vectors go: padding is masked, and its vectors are left out. Or padding
is seen, as in Stable Diffusion: every text has as many tokens, and those of its padding are vectors like all others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..conditioning.captions import TOKENS_FIELD, Encoded
from ..errors import ConfigError, DataError, as_data_error
from ..files import sha256_files, sha256_json
from ..runs.weights import CONFIG
from .transformers import described_network, load_network, transformers_library

REMEDY = "give a folder with config.json, model.safetensors and the tokenizer's files, as `save_pretrained` writes them"
FROZEN = "frozen"
TEXT_ENCODER, CLIP = "text_encoder", "clip"  # roles among a stage's inputs; of several encoders text_encoder_2, …
LAYERS = ("last", "penultimate")
_VOCABULARIES = (
    "tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model",
)  # fmt: skip
_TOKENIZER_FILES = (
    *_VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
_MOST = 512  # tokens, of a model without a limit of its own
_PADDED = 256  # tokens, of padding that is seen
_AT_ONCE = 64
_CLIP, _T5, _BEHIND = "clip", ("t5", "mt5", "umt5"), ("roberta", "xlm-roberta", "camembert", "mpnet")


@dataclass(frozen=True)
class Part:
    """One encoder. layer: whose output is taken: the last one's, or that of the one before, without the last norm.

    tokens: to how many every text is padded, where its padding is seen.
    """

    folder: Path
    kind: str
    layer: str
    sha256: str
    network: nn.Module
    tokenizer: Any
    most: int
    tokens: int | None = None

    @property
    def joins_channels(self) -> bool:
        """Whether its vectors stand beside those of others of its kind, as in Stable Diffusion 3, and not after."""
        return self.kind == _CLIP

    def ids(self, texts: Sequence[str], length: int | None) -> list[list[int]]:
        """Return the ids of texts, cut to a length with what ends a text, if so wished; never none."""
        cut = {} if length is None else {"truncation": True, "max_length": length}
        found: list[list[int]] = self.tokenizer([*texts], padding=False, verbose=False, **cut)["input_ids"]
        alone = [self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id, 0]
        return [ids or [next(each for each in alone if each is not None)] for ids in found]

    def vectors(self, rows: Sequence[Sequence[int]]) -> list[tuple[Tensor, Tensor | None]]:
        """Return for the ids of each text its tokens' vectors, float32 (N, W), and one of the whole, if it has one."""
        lengths = [len(row) for row in rows]
        ids = torch.full((len(rows), self.tokens or max(lengths)), self.tokenizer.pad_token_id or 0, dtype=torch.int64)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
        mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
        device = next(self.network.parameters()).device
        seen = {} if self.tokens else {"attention_mask": mask.long().to(device)}
        with torch.no_grad():
            found = self.network(input_ids=ids.to(device), output_hidden_states=True, **seen)
        tokens = found.last_hidden_state if self.layer == "last" else found.hidden_states[-2]
        whole = self._whole(found.last_hidden_state, lengths)
        return [
            (each[: self.tokens or length].float().cpu(), None if whole is None else whole[place].float().cpu())
            for place, (each, length) in enumerate(zip(tokens, lengths, strict=True))
        ]

    def widths(self) -> tuple[int, int]:
        """Return the width of its tokens, and of its vector of the whole, 0 without one."""
        tokens, whole = self.vectors(self.ids([""], self.most))[0]
        return tokens.shape[1], 0 if whole is None else len(whole)

    def _whole(self, last: Tensor, lengths: Sequence[int]) -> Tensor | None:
        """Return CLIP's vector of the whole text: of what ends it, after the last norm, projected where it is."""
        if self.kind != _CLIP:
            return None
        ends = last[torch.arange(len(last)), torch.tensor(lengths) - 1]
        projection: nn.Module | None = getattr(self.network, "text_projection", None)
        projected: Tensor = ends if projection is None else projection(ends)
        return projected


@dataclass(frozen=True)
class FrozenEncoder:
    """One text encoder, or several: CLIPs side by side, and after their tokens those of the others.

    Vectors are padded with zeros to the widest, as in Stable Diffusion 3 (Esser et al. 2024). blank: tokens of zeros
    after the others and their width, in the place of an encoder that was left out. lower: texts are read in lower case.
    """

    parts: tuple[Part, ...]
    blank: tuple[int, int] = (0, 0)
    lower: bool = False
    rows_field = TOKENS_FIELD

    @property
    def groups(self) -> list[list[Part]]:
        """The parts whose tokens stand side by side."""
        beside = [part for part in self.parts if part.joins_channels]
        return [*([beside] if beside else []), *([part] for part in self.parts if not part.joins_channels)]

    @property
    def fixed(self) -> int | None:
        if self.parts[0].tokens is None:
            return None
        return sum(group[0].tokens or 0 for group in self.groups) + self.blank[0]

    @property
    def most(self) -> int:
        return self.fixed or min(part.most for part in self.parts) * len(self.groups)

    @property
    def files(self) -> dict[str, str]:
        return {part.folder.as_posix(): part.sha256 for part in self.parts}

    def describe(self) -> dict[str, Any]:
        described: list[dict[str, Any]] = [
            {"name": part.kind, "sha256": part.sha256, "layer": part.layer, "folder": part.folder.as_posix()}
            for part in self.parts
        ]
        for entry, part in zip(described, self.parts, strict=True):
            if part.tokens is not None:  # Then it is known which rows and columns of a text are whose.
                entry |= {"tokens": part.tokens, "widths": list(part.widths())}
        more = ({"blank": list(self.blank)} if self.blank[0] else {}) | ({"lower": True} if self.lower else {})
        digest = sha256_json([part.sha256 for part in self.parts])
        return {"name": FROZEN, "sha256": digest, "parts": described, **more}

    def lengths(self, texts: Sequence[str]) -> list[int]:
        counts = np.array([[len(ids) for ids in part.ids(texts, None)] for part in self.parts])
        longest: list[int] = (counts.max(axis=0) * len(self.groups)).tolist()
        return longest

    def encode(self, texts: Sequence[str], length: int) -> list[Encoded]:
        texts = [text.lower().strip() for text in texts] if self.lower else texts
        encoded: list[Encoded] = []
        for start in range(0, len(texts), _AT_ONCE):
            encoded += self._encode(texts[start : start + _AT_ONCE], length // len(self.groups))
        return encoded

    def _encode(self, texts: Sequence[str], length: int) -> list[Encoded]:
        rows: list[list[Tensor]] = [[] for _ in texts]
        wholes: list[list[Tensor]] = [[] for _ in texts]
        cut = [False] * len(texts)
        for group in self.groups:
            beside: list[list[Tensor]] = [[] for _ in texts]
            for part in group:
                ids = part.ids(texts, part.tokens or length)
                cut = [was or len(a) > len(b) for was, a, b in zip(cut, part.ids(texts, None), ids, strict=True)]
                for place, (tokens, whole) in enumerate(part.vectors(ids)):
                    beside[place].append(tokens)
                    wholes[place] += [] if whole is None else [whole]
            for place, several in enumerate(beside):
                if len({len(each) for each in several}) > 1:
                    names = " and ".join(str(part.folder) for part in group)
                    raise DataError(f"{names} divide a text into other tokens", "give CLIPs of one vocabulary")
                rows[place].append(torch.cat(several, dim=1))
        width = max(self.blank[1], *(each.shape[1] for each in rows[0]))
        rows = [[*each, torch.zeros(self.blank)] for each in rows] if self.blank[0] else rows
        padded = [torch.cat([nn.functional.pad(e, (0, width - e.shape[1])) for e in each]) for each in rows]
        return [
            Encoded(_half(tokens), _half(torch.cat(whole)) if whole else None, was)
            for tokens, whole, was in zip(padded, wholes, cut, strict=True)
        ]


def open_encoders(folders: Sequence[Path], layer: str, device: torch.device) -> FrozenEncoder:
    """Open frozen text encoders. layer: "last", "penultimate", or "auto": of CLIP the one before the last.

    No code of a folder runs. Raises ConfigError where transformers is not installed, DataError naming a folder that
    holds no text encoder, or lacks files.
    """
    return FrozenEncoder(tuple(_open(folder, layer, device) for folder in folders))


def with_padding(encoder: FrozenEncoder, length: int | None) -> FrozenEncoder:
    """Return an encoder that pads texts and lets padding be seen: each to what it takes, 256 at most.

    length: of a whole text instead, equally many tokens of each encoder, CLIPs together counting as one. Raises
    ConfigError for one that does not divide so, or is too long.
    """
    groups = encoder.groups
    if length is not None and (length % len(groups) or length > encoder.most):
        message = f"`text.length={length}` is not equally many tokens of {len(groups)} encoders, {encoder.most} at most"
        raise ConfigError(message, f"give a multiple of {len(groups)}, or leave it out")
    padded = {
        part.folder: min(*(each.most for each in group), _PADDED) if length is None else length // len(groups)
        for group in groups
        for part in group
    }
    return replace(encoder, parts=tuple(replace(part, tokens=padded[part.folder]) for part in encoder.parts))


def open_recorded(described: Mapping[str, Any], folders: Sequence[str] = (), device: str = "cpu") -> FrozenEncoder:
    """Open the encoders that `FrozenEncoder.describe` described, in the folders given or where they were.

    Raises DataError for a folder that is not there, or holds another encoder.
    """
    parts = described["parts"]
    if folders and len(folders) != len(parts):
        message = f"`text_encoder` is given {len(folders)} times: the model reads texts by {len(parts)} encoders"
        raise ConfigError(message, "give each, in the order in which they were given to encode")
    opened = []
    for number, part in enumerate(parts):
        folder = Path(folders[number] if folders else part["folder"])
        if not folder.is_dir():
            raise DataError(
                f"{folder} is gone: the model needs its {part['name']} text encoder for prompts that it has not seen",
                "give its folder: `text_encoder=FOLDER`",
            )
        if files_sha256(folder) != part["sha256"]:
            message = f"{folder} is another text encoder than the {part['name']} that the captions were encoded with"
            raise DataError(message, "give the folder of that one: `text_encoder=FOLDER`")
        found = _open(folder, part["layer"], torch.device(device))
        opened.append(replace(found, folder=Path(part["folder"]), tokens=part.get("tokens")))
    rows, width = described.get("blank", (0, 0))
    return FrozenEncoder(tuple(opened), (rows, width), bool(described.get("lower", False)))


def files_sha256(folder: Path) -> str:
    """Return one sha256 of all files of an encoder that matter: configuration, weights and tokenizer."""
    beside = _tokenizer_folder(folder)
    wanted = [folder / CONFIG, *sorted(folder.glob("*.safetensors")), *(beside / name for name in _TOKENIZER_FILES)]
    return sha256_files(path for path in wanted if path.is_file())


def _tokenizer_folder(folder: Path) -> Path:
    """Return where the tokenizer is: in the folder, or beside it, as in pipelines of diffusers."""
    beside = folder.with_name(folder.name.replace("text_encoder", "tokenizer"))
    inside = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    return folder if inside or not beside.is_dir() else beside


def _open(folder: Path, layer: str, device: torch.device) -> Part:
    if not folder.is_dir():
        raise ConfigError(f"`text.encoder={folder}` is not a folder", REMEDY)
    library = transformers_library("frozen text encoders need")
    described = described_network(folder, REMEDY)
    kind = str(described.get("model_type"))
    loader = _loader(library, described, folder)
    network, _ = load_network(folder, loader, "text encoder", REMEDY)
    beside = _tokenizer_folder(folder)
    if not any((beside / name).is_file() for name in _VOCABULARIES):  # transformers would make an empty one.
        raise DataError(f"{beside} holds no tokenizer: none of {', '.join(_VOCABULARIES)} is there", REMEDY)
    with as_data_error(f"{beside} holds no tokenizer that transformers can load", REMEDY):
        tokenizer = library.AutoTokenizer.from_pretrained(beside, local_files_only=True, trust_remote_code=False)
    # RoBERTa and its kin count positions from behind the padding's id.
    positions = (getattr(network.config, "max_position_embeddings", None) or _MOST) - (2 if kind in _BEHIND else 0)
    most = min(positions, tokenizer.model_max_length, _MOST)
    is_clip = kind.startswith(_CLIP)
    chosen = layer if layer != "auto" else ("penultimate" if is_clip else "last")
    digest = files_sha256(folder)
    part = Part(folder, _CLIP if is_clip else kind, chosen, digest, network.to(device), tokenizer, most)
    with as_data_error(f"{folder} holds no text encoder", REMEDY):
        known = network.get_input_embeddings().num_embeddings
        if len(tokenizer) > known:
            raise ValueError(f"its tokenizer has {len(tokenizer):,} ids, the network knows {known:,}")
        part.vectors(part.ids(["a", ""], part.most))
    return part


def _loader(library: Any, described: Mapping[str, Any], folder: Path) -> Any:
    """Return the class that reads a text encoder's weights. Raises DataError for networks of other kinds."""
    kind, architecture = str(described.get("model_type")), str((described.get("architectures") or [""])[0])
    if kind in ("clip", "clip_text_model"):
        projected = kind == "clip" or architecture.endswith("WithProjection")
        return library.CLIPTextModelWithProjection if projected else library.CLIPTextModel
    if kind in _T5:
        return {"t5": library.T5EncoderModel, "mt5": library.MT5EncoderModel, "umt5": library.UMT5EncoderModel}[kind]
    if described.get("is_encoder_decoder") or not ("vocab_size" in described or "text_config" in described):
        raise DataError(f"{folder} holds no text encoder: its network is of kind {kind!r}", REMEDY)
    return library.AutoModel


def _half(values: Tensor) -> np.ndarray:
    array = values.numpy().astype(np.float16)
    if not np.isfinite(array).all():
        raise DataError("a text encoder gives numbers beyond the range of float16", "use another layer or encoder")
    return array
