"""Pictures: pixels against diffusers, metadata against A1111's reader, and what a failed write leaves."""

import json
import os
import re
import resource
import struct
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from sdcomp.errors import ExecutionError, UsageError
from sdcomp.runtime.images import check_target, generation_parameters, numbered, save_png, to_images

OPTIONS = {
    "prompt": "a cat, (red:1.2)\nsecond line",
    "negative": "blurry,\nbad: hands",
    "steps": 20,
    "sampler": "euler_a",
    "schedule": "karras",
    "cfg_scale": 7.5,
    "seed": 2**63 + 1,
    "width": 512,
    "height": 768,
    "model": "v1-5",
    "adapters": [],
    "version": "0.1.0",
}

PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def _read_as_a1111(text):
    """Transcribed from A1111's `parse_generation_parameters` (modules/infotext_utils.py)."""
    *lines, last = text.strip().split("\n")
    if len(PARAMETER.findall(last)) < 3:
        lines, last = [*lines, last], ""
    prompt, negative, in_negative = [], [], False
    for line in (line.strip() for line in lines):
        if line.startswith("Negative prompt:"):
            in_negative, line = True, line[len("Negative prompt:") :].strip()
        (negative if in_negative else prompt).append(line)
    fields = {"Prompt": "\n".join(prompt), "Negative prompt": "\n".join(negative)}
    for key, value in PARAMETER.findall(last):
        plain = json.loads(value) if value[:1] == value[-1:] == '"' else value
        size = re.match(r"^(\d+)x(\d+)$", plain)
        fields |= {f"{key}-1": size[1], f"{key}-2": size[2]} if size else {key: plain}
    return fields


def _chunks(path):
    """The names of a PNG's chunks, in order."""
    data, position, names = path.read_bytes(), 8, []
    while position < len(data):
        length, name = struct.unpack(">I4s", data[position : position + 8])
        names.append(name.decode())
        position += 12 + length
    return names


@pytest.fixture
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_pixels_equal_diffusers():
    decoded = np.random.default_rng(1).normal(0, 0.7, (2, 3, 16, 24)).astype(np.float32)
    decoded[0, 0, 0, :5] = [-1, 1, 0, 5, -5]
    expected = VaeImageProcessor().postprocess(torch.from_numpy(decoded), output_type="pil")
    images = to_images(decoded)
    assert [image.size for image in images] == [(24, 16), (24, 16)]
    for image, reference in zip(images, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(reference))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_refused(bad):
    decoded = np.zeros((1, 3, 8, 8), dtype=np.float32)
    decoded[0, 1, 2, 3] = bad
    with pytest.raises(ExecutionError, match="not finite"):
        to_images(decoded)


def test_text_is_that_of_a1111():
    assert generation_parameters(**OPTIONS).split("\n") == [
        "a cat, (red:1.2)",
        "second line",
        "Negative prompt: blurry,",
        "bad: hands",
        "Steps: 20, Sampler: Euler a, Schedule type: Karras, CFG scale: 7.5, Seed: 9223372036854775809, "
        "Size: 512x768, Model: v1-5, Version: sdcomp 0.1.0",
    ]


@pytest.mark.parametrize("negative", ["", "blurry, [low: quality]", "zwei\nZeilen"])
@pytest.mark.parametrize("model", ["v1-5", 'a, "b": c', "back\\slash, x", "größe: 猫", "new\nline"])
@pytest.mark.parametrize("adapters", [[], [("style", 1.0)], [("a, b", 0.8), ('say "x"', -0.25)]])
def test_a1111_reads_every_field_back(tmp_path, picture, negative, model, adapters):
    options = OPTIONS | {"negative": negative, "model": model, "adapters": adapters, "cfg_scale": 7.0}
    save_png(picture, tmp_path / "out.png", generation_parameters(**options))
    fields = _read_as_a1111(Image.open(tmp_path / "out.png").info["parameters"])
    expected = {
        "Prompt": "a cat, (red:1.2)\nsecond line",
        "Negative prompt": negative,
        "Steps": "20",
        "Sampler": "Euler a",
        "Schedule type": "Karras",
        "CFG scale": "7",
        "Seed": "9223372036854775809",
        "Size-1": "512",
        "Size-2": "768",
        "Model": model,
        "Version": "sdcomp 0.1.0",
    }
    if adapters:
        expected["Adapters"] = ", ".join(f"{name}: {strength:g}" for name, strength in adapters)
    assert fields == expected


def test_plain_sampler_and_schedule_have_their_names():
    fields = _read_as_a1111(generation_parameters(**OPTIONS | {"sampler": "euler", "schedule": "discrete"}))
    assert (fields["Sampler"], fields["Schedule type"]) == ("Euler", "Automatic")


def test_names_that_are_unknown_are_refused():
    with pytest.raises(UsageError, match="unknown sampler 'x'"):
        generation_parameters(**OPTIONS | {"sampler": "x"})
    with pytest.raises(UsageError, match="unknown schedule 'x'"):
        generation_parameters(**OPTIONS | {"schedule": "x"})


@pytest.mark.parametrize(
    ("text", "chunk", "read"),
    [
        ("un été", "tEXt", "un été"),
        ("猫 🐱", "iTXt", "猫 🐱"),
        ("", "tEXt", ""),
        ("nul\0inside", "iTXt", "nul\N{REPLACEMENT CHARACTER}inside"),
        ("model \udcff", "tEXt", "model ?"),
    ],
)
def test_text_chunk_and_pixels_survive(tmp_path, picture, text, chunk, read):
    path = tmp_path / "out.png"
    save_png(picture, path, text)
    assert chunk in _chunks(path)
    with Image.open(path) as saved:
        assert saved.info["parameters"] == read
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(picture))
    assert os.listdir(tmp_path) == ["out.png"]


def test_permissions_are_those_of_any_new_file(tmp_path, picture):
    (tmp_path / "other").touch()
    save_png(picture, tmp_path / "out.png", "")
    assert (tmp_path / "out.png").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_link_stays_and_its_file_is_replaced(tmp_path, picture):
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    save_png(picture, tmp_path / "link.png", "")
    assert (tmp_path / "link.png").is_symlink()
    assert Image.open(tmp_path / "real.png").size == picture.size


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing/out.png", "does not exist; make it first"),
        ("folder.png", "found a folder or device"),
        ("out.jpg", "pictures are PNG files; name it out.png"),
        ("file.png/out.png", "does not exist"),
    ],
)
def test_targets_that_cannot_be_written_are_refused_before(tmp_path, picture, name, message):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.png").touch()
    for attempt in (lambda path: check_target(path), lambda path: save_png(picture, path, "")):
        with pytest.raises(UsageError, match=message):
            attempt(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file.png", "folder.png"]


def test_an_unwritable_folder_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == tmp_path and mode == os.W_OK))
    with pytest.raises(UsageError, match="is not writable"):
        check_target(tmp_path / "out.png")


@contextmanager
def _files_limited_to(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_write_that_fails_half_way_leaves_the_old_picture(tmp_path, picture):
    path = tmp_path / "out.png"
    path.write_bytes(b"the old picture")
    with (
        _files_limited_to(1000),
        pytest.raises(ExecutionError, match=r"out\.png: cannot write the picture: File too large"),
    ):
        save_png(picture, path, "")
    assert path.read_bytes() == b"the old picture"
    assert os.listdir(tmp_path) == ["out.png"]


def test_an_interrupt_leaves_nothing(tmp_path, picture, monkeypatch):
    def interrupt(file, **_options):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(picture, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_png(picture, tmp_path / "out.png", "")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "index", "count", "expected"),
    [
        ("out.png", 0, 1, "out.png"),
        ("out.png", 0, 3, "out-1.png"),
        ("out.png", 2, 3, "out-3.png"),
        ("a.b.png", 9, 10, "a.b-10.png"),
        ("cat_%d.png", 0, 1, "cat_1.png"),
        ("cat_%03d.png", 11, 20, "cat_012.png"),
        ("100%_%d.png", 1, 2, "100%_2.png"),
        ("100%.png", 1, 2, "100%-2.png"),
        ("%s_%0999999999d.png", 0, 2, "%s_%0999999999d-1.png"),
    ],
)
def test_numbered_names(tmp_path, name, index, count, expected):
    assert numbered(tmp_path / "%d" / name, index, count) == tmp_path / "%d" / expected
