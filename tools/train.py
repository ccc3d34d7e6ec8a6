"""Train the model that a config describes.

Example, two minutes on two CPU cores:
  visionsparse train biformer/biformer_nano_digits

One process a GPU, on one machine or more; if one dies, all start again at the last checkpoint:
  torchrun --nproc-per-node 8 --max-restarts 3 -m visionsparse.tools.train CONFIG --resume

Ctrl-C and SIGTERM finish the iteration, save a checkpoint and stop (a second one leaves at once); the same command with
--resume goes on to the same numbers, also after kill -9. docs/reliability.md says what to rely on.
"""

from __future__ import annotations

from collections.abc import Sequence

from visionsparse.cli import Parser, key_value_pairs, run


def main(argv: Sequence[str] | None = None) -> None:
    """Parses the command line and trains."""
    summary, _, rest = (__doc__ or "").partition("\n")
    parser = Parser(prog="visionsparse train", description=summary, epilog=rest.strip())
    parser.add_argument("config", metavar="CONFIG", help="path or name, such as biformer/biformer_nano_digits")
    parser.add_argument("--work-dir", metavar="DIR", help="for checkpoints and logs (work_dirs/<config name>)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="CKPT",
        help="go on from CKPT, or from the newest checkpoint in the work dir that opens",
    )
    parser.add_argument("--load-from", metavar="CKPT", help="start from these weights (fine-tuning); path or URL")
    parser.add_argument(
        "--amp", nargs="?", const=True, choices=["bf16", "fp16", "off"], help="mixed precision; fp16 needs a GPU"
    )
    parser.add_argument("--compile", action="store_true", help="compile the net: slow to start, then faster")
    parser.add_argument("--seed", type=int, metavar="S", help="of everything random (the config's)")
    parser.add_argument("--deterministic", action="store_true", help="the same bits each time, if slower")
    parser.add_argument("--device", default="auto", metavar="D", help="cpu, cuda, cuda:1 or auto (default)")
    parser.add_argument(
        "--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="changes to the config, by dotted key"
    )
    arguments = parser.parse_args(argv)

    from visionsparse.apis import train

    train(
        arguments.config,
        work_dir=arguments.work_dir,
        resume=arguments.resume,
        load_from=arguments.load_from,
        amp=arguments.amp,
        compile=arguments.compile,
        seed=arguments.seed,
        deterministic=arguments.deterministic,
        device=arguments.device,
        options=key_value_pairs(arguments.cfg_options),
    )


if __name__ == "__main__":
    run(main)
