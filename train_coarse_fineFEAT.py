"""Stage 3: train the Coarse stream, fused with the stored features of the Fine stream (section 4.1).

    python train_coarse_fineFEAT.py -gpu 0 --data.frames DIR --data.annotations FILE

With `coarse.fine_source: network` (configs/charades_joint.yaml) both streams in one network, without a store.
"""

from configs.cli import Command, parse
from engine.launch import run_script
from engine.networks import build_coarse, build_coarse_fine
from engine.training import coarse_forward, coarse_of_both_forward, fine_head, run_stage


def main(argv: list[str] | None = None) -> None:
    command = parse(
        argv,
        prog="train_coarse_fineFEAT.py",
        description="Stage 3: train or evaluate the Coarse-Fine network.",
        with_eval_only=True,
    )
    run_script(__file__, command, argv, train)


def train(command: Command) -> None:
    coarse = command.config.coarse
    both = coarse.fine_source == "network"
    run_stage(
        command,
        "coarse",
        build=build_coarse_fine if both else build_coarse,
        forward=coarse_of_both_forward if both else coarse_forward,
        fine_source=coarse.fine_source,
        fusion_lr_factor=coarse.fusion_lr_factor,
        second_head=fine_head(coarse.fine_loss_weight) if both and not coarse.fine_frozen else None,
    )


if __name__ == "__main__":
    main()
