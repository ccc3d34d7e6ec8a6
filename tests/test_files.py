import errno
import os
import signal

import pytest

from visionsparse.files import no_room, sweep, whole_file, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_and_its_folder_appear(tmp_path):
    write_text(tmp_path / "deep/er/note.txt", "größer\n")
    assert (tmp_path / "deep/er/note.txt").read_text(encoding="utf-8") == "größer\n"
    assert names(tmp_path / "deep/er") == ["note.txt"]


def test_an_error_in_the_block_leaves_the_former_file_and_nothing_else(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "former")

    def write_half():
        with whole_file(path) as file:
            file.write(b"half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "former"
    assert names(tmp_path) == ["note.txt"]


def test_the_former_file_is_there_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "note.txt"
    write_text(path, "former")
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "former"
    assert path.read_text() == "new"


def test_a_link_stays_a_link_and_the_mode_is_that_of_any_new_file(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    before = os.umask(0o022)
    try:
        write_text(tmp_path / "link", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o644


def killed_while_writing(path):
    """Writes half of `path` in a process of its own, which is then killed."""
    child = os.fork()
    if child == 0:
        with whole_file(path) as file:
            file.write(b"half")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)


def test_what_a_killed_writer_leaves_is_swept_and_named(tmp_path):
    killed_while_writing(tmp_path / "note.txt")
    (left,) = names(tmp_path)

    assert sweep(tmp_path) == [left]
    assert names(tmp_path) == []


def test_what_a_living_writer_is_writing_is_not_swept(tmp_path):
    with whole_file(tmp_path / "note.txt") as file:
        file.write(b"text")
        assert sweep(tmp_path) == []
    assert names(tmp_path) == ["note.txt"]


def test_a_full_disk_is_one_line_with_the_file_and_the_free_space(tmp_path):
    line = no_room(OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "note.txt")))

    assert line.startswith(f"{tmp_path}/note.txt: can't be written: No space left on device. ")
    assert " MiB are free there." in line
    assert no_room(FileNotFoundError(errno.ENOENT, "No such file or directory", "x")) is None
