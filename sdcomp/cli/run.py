"""`sdcomp run`: from an artifact and a prompt to pictures."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from sdcomp.cli.progress import Stages
    from sdcomp.cli.trace import Tracing
    from sdcomp.runtime.pipeline import Generated, GenerateOptions, Pipeline


def run(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Artifact of `sdcomp build`: a program, to be trusted.")
    ],
    prompt: Annotated[str, typer.Option("-p", "--prompt", help="What the picture shows.")],
    negative: Annotated[str, typer.Option("-n", "--negative", help="What it does not show.")] = "",
    output: Annotated[
        str,
        typer.Option("-o", "--output", metavar="FILE", help="PNG to write; %d becomes the picture's number."),
    ] = "out.png",
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Sampling steps.")] = 20,
    cfg_scale: Annotated[
        float, typer.Option("--cfg-scale", metavar="X", help="Guidance by the prompt; 1 is none, and faster.")
    ] = 7.0,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of the noise; -1 draws one.")] = 42,
    sampler: Annotated[str, typer.Option("--sampler", metavar="NAME", help="euler_a or euler.")] = "euler_a",
    schedule: Annotated[
        str, typer.Option("--schedule", metavar="NAME", help="discrete or karras.")
    ] = "discrete",
    size: Annotated[
        str | None,
        typer.Option("--size", metavar="WxH", help="One of the artifact's sizes.", show_default="its first"),
    ] = None,
    batch: Annotated[
        int, typer.Option("--batch", metavar="N", min=1, help="Pictures to make, each of the next seed.")
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", metavar="N", min=1, help="Threads that compute.", show_default="the artifact's"
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            metavar="NAME=STRENGTH[:TE_STRENGTH]",
            help="Strength of an adapter that was built with --live; may repeat.",
        ),
    ] = None,
) -> None:
    """Makes pictures with an artifact."""
    from sdcomp.cli.parsing import parse_size, parse_strength
    from sdcomp.runtime.images import check_target, numbered
    from sdcomp.runtime.pipeline import GenerateOptions
    from sdcomp.runtime.samplers import sampler_named
    from sdcomp.runtime.schedules import schedule_named

    wanted = parse_size(size) if size is not None else None
    strengths = dict(parse_strength(text) for text in adapter or ())
    options = GenerateOptions(
        prompt, negative, steps, cfg_scale, seed, sampler, schedule, wanted, batch, strengths
    )
    sampler_named(sampler)
    schedule_named(schedule)
    files = [numbered(Path(output), index, batch) for index in range(batch)]
    for file in files:
        check_target(file)
    _run(model, options, files, threads)


def _run(path: str, options: "GenerateOptions", files: list[Path], threads: int | None) -> None:
    from sdcomp import load
    from sdcomp.cli.debug import CHOICES, debug_level, describe_choices, say
    from sdcomp.cli.errors import warn
    from sdcomp.cli.progress import Stages
    from sdcomp.cli.trace import Tracing
    from sdcomp.runtime.images import save_png

    level, tracing = debug_level(), Tracing.from_environment()
    begin = time.perf_counter()
    with load(path, threads) as model:
        opened = time.perf_counter() - begin
        typer.echo(_introduction(model))
        if level >= CHOICES:
            say(describe_choices(model.manifest))
        with Stages() as stages:
            generated = _generate(model, options, stages, tracing)
    for file, image, parameters in zip(files, generated.images, generated.parameters, strict=True):
        save_png(image, file, parameters)
    for warning in generated.warnings:
        warn(warning)
    tracing.report(model.library.threads)
    typer.echo(_stages({"open": opened, **generated.stages}, options.steps))
    typer.echo(", ".join(map(str, files)))


def _generate(
    model: "Pipeline", options: "GenerateOptions", stages: "Stages", tracing: "Tracing"
) -> "Generated":
    model.trace = tracing.runs
    return model.generate(options, stages.report)


def _introduction(model: "Pipeline") -> str:
    """The machine, the threads, and what the largest program, the UNet, is made of."""
    from sdcomp.cli.debug import kernel_counts

    manifest = model.manifest
    unet = next(program for program in reversed(manifest["programs"]) if program["name"].startswith("unet@"))
    threads = model.library.threads
    return f"{manifest['target']}, {threads} thread{'s' * (threads != 1)}; UNet: {kernel_counts(unet)}"


def _stages(seconds: dict[str, float], steps: int) -> str:
    from sdcomp.cli.tables import seconds_text

    texts = {stage: seconds_text(taken) for stage, taken in seconds.items()}
    texts["sampling"] += f" ({seconds['sampling'] / steps:.2f} s/step)"
    times = ", ".join(f"{stage} {text}" for stage, text in texts.items())
    return f"{times}; together {seconds_text(sum(seconds.values()))}"
