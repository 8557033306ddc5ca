"""The command line of the benchmarks; docs/performance.md explains it."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import commands
from sdcomp.cli.parsing import parse_size
from sdcomp.errors import SdcompError, UsageError

_THREADS = os.cpu_count() or 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line, `sys.argv` by default; returns the exit code."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # gigabytes would stay behind
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except SdcompError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for subject in commands.NETWORKS:
        _network(subparsers.add_parser(subject, help=f"time and memory of the {subject} network"), subject)
    for subject in commands.LAYERS:
        _measured(subparsers.add_parser(subject, help=f"time of single {subject} layers"), subject)
    _image(subparsers.add_parser("image", help="time and memory of a whole picture, process and all"))
    _scaling(subparsers.add_parser("scaling", help="a UNet evaluation on one thread, on all, and disturbed"))
    _memory(subparsers.add_parser("memory", help="time and peak memory of `sdcomp build` and `sdcomp run`"))
    _adapters(subparsers.add_parser("adapters", help="time of a UNet with adapters, folded in and live"))
    _accuracy(subparsers.add_parser("accuracy", help="relative errors of every program"))
    _winograd_error(subparsers.add_parser("winograd-error", help="rounding errors of convolution kernels"))
    _make_checkpoint(subparsers.add_parser("make-checkpoint", help="write a synthetic checkpoint"))
    _make_lokr(subparsers.add_parser("make-lokr", help="write a random LoKr adapter for a checkpoint"))
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=_positive, default=_THREADS, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the records here too")


def _measured(parser: argparse.ArgumentParser, subject: str) -> None:
    _common(parser)
    parser.add_argument(
        "--peers", default="torch", metavar="LIST", help="torch,openvino,onnxruntime, or none: ''"
    )
    parser.add_argument("--runs", type=_positive, default=5, metavar="N", help="turns per program")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains this")
    parser.set_defaults(command=commands.measure_subject, subject=subject)


def _network(parser: argparse.ArgumentParser, subject: str) -> None:
    _measured(parser, subject)
    _model(parser)
    if subject == "unet":
        parser.add_argument(
            "--hoist-prompt", action="store_true", help="leave out what we compute once per picture"
        )


def _image(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument(
        "--peers",
        default="openvino",
        metavar="LIST",
        help="openvino,onnxruntime,torch,stable-diffusion-cpp,stable-diffusion-cpp-fa, or none: ''",
    )
    parser.add_argument("--runs", type=_positive, default=1, metavar="N", help="turns per program")
    parser.add_argument("--steps", type=_positive, default=20, metavar="N")
    _model(parser)
    parser.set_defaults(command=commands.measure_image)


def _scaling(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument("--runs", type=_positive, default=5, metavar="N", help="turns of each")
    _model(parser)
    parser.set_defaults(command=commands.measure_scaling)


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="checkpoint, .safetensors")
    parser.add_argument("--artifact", type=Path, metavar="FILE", help="its artifact; built if left out")
    parser.add_argument("--size", type=_size, default=(512, 512), metavar="WxH")


def _memory(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="checkpoint, .safetensors")
    parser.add_argument("--lokr", action="append", default=[], metavar="FILE[:STRENGTH]")
    parser.add_argument("--size", type=_size, default=(512, 512), metavar="WxH")
    parser.add_argument("--steps", type=_positive, default=20, metavar="N")
    parser.set_defaults(command=commands.measure_memory)


def _adapters(parser: argparse.ArgumentParser) -> None:
    _common(parser)
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="checkpoint, .safetensors")
    parser.add_argument("--lokr", action="append", required=True, metavar="FILE[:STRENGTH]")
    parser.add_argument("--size", type=_size, default=(512, 512), metavar="WxH")
    parser.add_argument("--runs", type=_positive, default=5, metavar="N", help="turns per form")
    parser.set_defaults(command=commands.measure_adapters)


def _accuracy(parser: argparse.ArgumentParser) -> None:
    _model(parser)
    parser.add_argument("--lokr", action="append", default=[], metavar="FILE[:STRENGTH]")
    parser.add_argument("--threads", type=_positive, default=_THREADS, metavar="N")
    parser.set_defaults(command=commands.check_accuracy)


def _winograd_error(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("family", choices=("sd15", "tiny"))
    parser.add_argument("--size", type=_size, default=(512, 512), metavar="WxH")
    parser.add_argument("--only", default="", metavar="TEXT", help="layers whose name contains this")
    parser.set_defaults(command=commands.report_winograd_errors)


def _make_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("family", choices=("sd15", "tiny"))
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--dtype", choices=("f16", "f32"), default="f16")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.set_defaults(command=commands.make_checkpoint)


def _make_lokr(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, required=True, metavar="FILE", help="checkpoint, .safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--factor", type=_positive, default=8, metavar="N", help="largest side of a small factor"
    )
    parser.add_argument("--linear", action="store_true", help="leave convolutions out")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.set_defaults(command=commands.make_lokr)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected 1 or more")
    return number


def _size(text: str) -> tuple[int, int]:
    try:
        return parse_size(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
