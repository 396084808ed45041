"""`glm generate`: fill the blanks of a text with a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Fill the blanks of a text with a checkpoint.")


@app.command()
def generate(
    text: Annotated[str, typer.Argument(help="Text with [MASK], [sMASK] or [gMASK]; '-' reads standard input.")],
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint folder, quantized or not.")],
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest filling, in tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 0.9,
    top_k: Annotated[int, typer.Option(min=0, help="Likeliest tokens to draw from; 0 for all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0, help="Nucleus sampling.")] = 0.7,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 1234,
) -> None:
    """Print TEXT with every blank filled."""
    from model.checkpoint import TOKENIZER, CheckpointError
    from model.generate import Sampling, fill
    from model.quantization import load_for_inference
    from model.tokenizer import Tokenizer

    try:
        model = load_for_inference(checkpoint)
        tokenizer = Tokenizer(checkpoint / TOKENIZER)
        prompt = typer.get_text_stream("stdin").read() if text == "-" else text
        typer.echo(fill(model, tokenizer, prompt, Sampling(max_tokens, temperature, top_k, top_p, seed)))
    except (CheckpointError, ValueError, OSError) as error:
        typer.echo(f"glm generate: {error}", err=True)
        raise typer.Exit(1) from error
