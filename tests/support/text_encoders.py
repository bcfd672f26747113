"""Tiny frozen text encoders of transformers, with random weights, as their authors' folders are."""

import json
from pathlib import Path
from typing import Any

import torch

from ldm.core.conditioning import bpe

WORDS = ["a", "an", "red", "green", "blue", "square", "ground", "on", "of", "the", "photo"]


def save_clip(folder: Path, projection: bool = False, seed: int = 0, width: int = 16, full: bool = False) -> Any:
    """Save a CLIP text model with its tokenizer. full: with the network of images beside it. Returns it."""
    from transformers import (
        CLIPConfig,
        CLIPImageProcessor,
        CLIPModel,
        CLIPTextConfig,
        CLIPTextModel,
        CLIPTextModelWithProjection,
    )

    _seed(seed)
    ends = {"bos_token_id": bpe.START, "eos_token_id": bpe.END, "pad_token_id": bpe.END}
    sizes = {"hidden_size": width, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPTextConfig(vocab_size=bpe.NUM_IDS, projection_dim=12, **sizes, **ends)
    if full:
        vision = {**sizes, "image_size": 32, "patch_size": 8, "projection_dim": 12}
        whole = CLIPConfig(text_config=config.to_dict(), vision_config=vision, projection_dim=12)
        model: Any = CLIPModel(whole)
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    else:
        model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    _, ranks, ids = bpe._vocabulary()
    _save(model, folder)
    vocabulary = {**ids, "<|startoftext|>": bpe.START, "<|endoftext|>": bpe.END}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in ranks)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    described = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    return model


def save_bert(folder: Path, seed: int = 0) -> Any:
    """Save a BERT, as sentence encoders are, with its tokenizer. Returns it."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    _seed(seed)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes))
    _save(model, folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    return model


def save_t5(folder: Path, seed: int = 0) -> Any:
    """Save a T5 of which only the encoder is wanted, with a tokenizer of words. Returns its encoder."""
    from transformers import T5Config, T5EncoderModel

    _seed(seed)
    sizes = {"d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    config = T5Config(vocab_size=40, decoder_start_token_id=0, feed_forward_proj="gated-gelu", **sizes)
    model = T5EncoderModel(config)
    _save(model, folder)
    _word_tokenizer(folder, "$A </s>", ["<pad>", "</s>", "<unk>"])
    return model


def save_decoder(folder: Path, seed: int = 0) -> Any:
    """Save a causal language model, as Sana's encoder is, with a tokenizer of words. Returns its layers."""
    from transformers import LlamaConfig, LlamaModel

    _seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaModel(LlamaConfig(vocab_size=40, max_position_embeddings=64, **sizes))
    _save(model, folder)
    _word_tokenizer(folder, "<s> $A", ["<pad>", "</s>", "<unk>", "<s>"])
    return model


def _word_tokenizer(folder: Path, form: str, special: list[str]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(ids, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(word, ids[word]) for word in special if word in form]
    tokenizer.post_processor = processors.TemplateProcessing(single=form, special_tokens=ends)
    named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "model_max_length": 64}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(folder)


def _seed(seed: int) -> None:
    torch.manual_seed(seed)


def _save(model: Any, folder: Path) -> None:
    """Save a model with random weights everywhere."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.eval().save_pretrained(folder)
