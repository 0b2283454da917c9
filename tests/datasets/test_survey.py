import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets import survey
from datasets.annotations import Action, Video
from datasets.clips import VideoFrames, frame_labels
from datasets.frames import Listing

times = st.floats(-2, 12) | st.integers(-2, 12).map(float)


@given(start=times, end=times, n=st.integers(1, 60))
def test_an_interval_is_an_example_iff_it_labels_a_frame(start, end, n):
    video = Video("AAA", "training", 10.0, (Action(1, start, end),))
    labelled = bool(frame_labels(video, n, 3).any())
    assert survey.videos_by_class([VideoFrames(video, n)] * 2, 3).tolist() == [0, 2 * labelled, 0]


@pytest.mark.parametrize(
    ("duration", "n", "off"),
    [(30, 720, False), (30, 743, False), (30, 745, True), (30, 695, True), (1000, 24_200, False), (1000, 24_300, True)],
)
def test_frames_and_duration(duration, n, off):
    entry = VideoFrames(Video("AAA", "training", duration, ()), n)
    assert survey.off_duration([entry], 24.0) == [entry] * off


def test_frame_rate_is_the_median():
    videos = [VideoFrames(Video("AAA", "training", 10.0, ()), n) for n in (240, 250, 9)]
    assert survey.frame_rate(videos) == 24.0


def test_present_frames():
    assert list(survey.present_frames(Listing(7, ((1, 2), (5, 5))))) == [3, 4, 6, 7]
    assert list(survey.present_frames(Listing(3, ((4, 4),), "AAA-3.jpg"))) == [1, 2, 3]
