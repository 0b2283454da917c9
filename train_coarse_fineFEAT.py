"""Stage 3: train the Coarse stream, fused with the stored features of the Fine stream (section 4.1).

    python train_coarse_fineFEAT.py -gpu 0 --data.frames DIR --data.annotations FILE

With `coarse.fine_source: network` (configs/charades_joint.yaml), both streams run in one network, without a store.
"""

from functools import partial

from configs.cli import parse
from engine.launch import run_script
from engine.training import run_stage


def main(argv: list[str] | None = None) -> None:
    command = parse(
        argv,
        prog="train_coarse_fineFEAT.py",
        description="Stage 3: train or evaluate the Coarse-Fine network.",
        with_eval_only=True,
    )
    run_script(__file__, command, argv, partial(run_stage, stage="coarse"))


if __name__ == "__main__":
    main()
