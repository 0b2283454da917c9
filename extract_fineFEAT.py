"""Stage 2: run the trained Fine stream on every video and store its features.

    python extract_fineFEAT.py -gpu 0 --data.frames DIR --data.annotations FILE

Videos that are complete in the store are skipped, so an interrupted extraction resumes where it stopped.
"""

import torch

from common.errors import InputError
from common.files import writable
from common.progress import progress
from configs.cli import Command, parse
from datasets.assembly import input_size, read_annotations, usable_videos, video_loader
from datasets.batch import prepare
from datasets.clips import video_length
from datasets.features import FeatureWriter, Settings, file_sha256
from datasets.windows import Joins
from engine import distributed
from engine.checkpoint import read_weights
from engine.launch import run_script, set_up_process
from engine.networks import build_fine, load_weights
from models import prepare_for_inference


def main(argv: list[str] | None = None) -> None:
    command = parse(
        argv, prog="extract_fineFEAT.py", description="Stage 2: store the Fine stream's features of every video."
    )
    run_script(__file__, command, argv, extract)


@torch.no_grad()
def extract(command: Command) -> None:
    """Store the features of all training and test videos, in the test view: whole videos or windows (`eval.window`)."""
    device, config = set_up_process(command), command.config
    checkpoint, stride = config.features_checkpoint, config.data.stride
    if not checkpoint.is_file():
        raise InputError(f"{checkpoint}: no such checkpoint; run train_fine.py first, or set --features.checkpoint")
    videos = usable_videos(config, list(read_annotations(config).videos), "Videos")
    net = build_fine(config)
    load_weights(net, read_weights(checkpoint), complete=True)
    net = prepare_for_inference(net.to(device))
    settings: Settings = {
        "checkpoint": str(checkpoint),
        "checkpoint_sha256": file_sha256(checkpoint),
        "stride": stride,
        "crop": input_size(config),
        "dtype": config.features.dtype,
    }
    if config.eval.window is not None:
        settings |= {"window": config.eval.window, "overlap": config.eval.common_frames}
    with FeatureWriter(writable(config.features_dir, "--features.dir"), settings) as writer:
        rank, processes = distributed.rank(), distributed.size()
        share = videos[rank::processes]
        left = [
            entry
            for entry in progress(share, len(share), "Checking existing features")
            if not writer.is_complete(entry.video.id, video_length(entry.n, stride), verify=config.features.verify)
        ]
        left = [entry for part in distributed.gather(left) for entry in part]
        print(f"{config.features_dir}: {len(videos) - len(left)} videos already extracted, {len(left)} to extract")
        loader, joins = video_loader(config, left, device, rank=rank, processes=processes), Joins()
        for batch in progress(loader, len(loader), "Extracting"):
            batch = prepare(batch, device)
            features = net.features(batch["clip"])  # {level: (B,C,T,7,7)}, whole videos or windows
            for i, (video, part) in enumerate(zip(batch["videos"], batch["parts"], strict=True)):
                own = {level: f[i] for level, f in features.items()}
                if final := joins.add(video, part, own):  # for windows: the part that later ones do not change
                    writer.write(video, final, frames=part.windows[-1].stop)
    skipped = sum(distributed.gather(len(loader.skipped)))
    print(f"{config.features_dir}: features of {len(videos) - skipped} videos written")


if __name__ == "__main__":
    main()
