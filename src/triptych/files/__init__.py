"""Files: whole or absent, with checksums and locks, and without pickle."""

from triptych.files.atomic import (
    check_new_folder,
    check_room,
    home_in,
    move_into_place,
    new_folder,
    sweep,
    write_atomic,
    write_text,
)
from triptych.files.hashes import hash_arrays, sha256
from triptych.files.locks import locked, only_process
from triptych.files.sealed import (
    Arrays,
    checksums,
    open_folder,
    read_arrays,
    read_json,
    read_marker,
    verify,
    write_arrays,
    write_json,
)

__all__ = [
    "Arrays",
    "check_new_folder",
    "check_room",
    "checksums",
    "hash_arrays",
    "home_in",
    "locked",
    "move_into_place",
    "new_folder",
    "only_process",
    "open_folder",
    "read_arrays",
    "read_json",
    "read_marker",
    "sha256",
    "sweep",
    "verify",
    "write_arrays",
    "write_atomic",
    "write_json",
    "write_text",
]
