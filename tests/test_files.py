import os

import pytest

from visionsparse.files import whole_file, write_text


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
