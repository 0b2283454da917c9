import pytest

from common.errors import InputError
from configs.schema import Config, Data, Fine, Model, Run
from datasets.annotations import Video
from datasets.assembly import check_batches, usable_videos


def test_a_batch_is_divided_among_processes_parts_and_groups():
    config = Config(model=Model(bn_splits=2))
    check_batches(config, Fine(batch_size=12, accumulate=3), 12, 2)
    with pytest.raises(InputError, match="batch_size: 5 cannot be divided among 2 processes; nearest valid: 4 or 6"):
        check_batches(Config(), Fine(batch_size=5), 12, 2)
    among = r"--fine\.batch_size: .* among 2 processes x 3 parts \(--fine\.accumulate\) x 2 equal groups .*valid: 12$"
    with pytest.raises(InputError, match=among):
        check_batches(config, Fine(batch_size=6, accumulate=3), 12, 2)


def test_the_last_batch_of_an_epoch():
    with pytest.raises(
        InputError, match=r"--fine\.batch_size: 3 videos do not fill a batch of 8; lower the batch size"
    ):
        check_batches(Config(), Fine(batch_size=8), 3, 1)
    check_batches(Config(), Fine(batch_size=8, drop_last=False), 3, 1)
    config = Config(model=Model(bn_splits=2))
    check_batches(config, Fine(batch_size=4, drop_last=False), 10, 1)
    with pytest.raises(InputError, match=r"has only 3 of 4 clips, which is not divisible by --model\.bn_splits 2"):
        check_batches(config, Fine(batch_size=4, drop_last=False), 11, 1)


def test_what_is_left_out_is_said(write_video, tmp_path, capsys):
    data, run = Data(frames=str(tmp_path / "frames"), allow_missing=True), Run(dir=str(tmp_path / "run"))
    videos = [write_video("AAA", 5), write_video("BBB", 2), Video("CCC", "training", 3.0, ())]
    assert usable_videos(Config(data=data, run=run), videos, "Videos", min_frames=3) == [(videos[0], 5)]
    assert capsys.readouterr().out == "Videos: 1 videos, 1 skipped as too short, 1 without frames: CCC\n"
