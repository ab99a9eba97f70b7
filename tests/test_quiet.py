import os

import pytest

from kerasllm.quiet import quiet


@pytest.fixture
def asked(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")


def say(text):
    """As a C++ library does: past `sys.stderr`."""
    os.write(2, text.encode())


def test_what_a_library_says_is_held_back(asked, capfd):
    say("before, ")
    with quiet():
        say("noise")
    say("after")
    assert capfd.readouterr() == ("", "before, after")


def say_and_fail(error):
    with quiet():
        say("why: ")
        raise error


def test_it_is_shown_if_the_block_fails(asked, capfd):
    with pytest.raises(ImportError, match="broken"):
        say_and_fail(ImportError("broken"))
    say("after")
    assert capfd.readouterr().err == "why: after"


def test_it_is_not_shown_at_ctrl_c(asked, capfd):
    with pytest.raises(KeyboardInterrupt):
        say_and_fail(KeyboardInterrupt())
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("level", [None, "0", "2"])
def test_nothing_is_held_back_unless_asked(level, monkeypatch, capfd):
    if level is None:
        monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    else:
        monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    with quiet():
        say("noise")
    assert capfd.readouterr().err == "noise"


def test_descriptors_are_given_back(asked):
    before = os.dup(0)
    os.close(before)
    for _ in range(5):
        with quiet():
            pass
    after = os.dup(0)
    os.close(after)
    assert after == before
