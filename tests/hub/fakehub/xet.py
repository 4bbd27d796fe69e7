"""Real Xet transfers without a content-addressed store beside the double.

hf_xet takes ``local://FOLDER`` for the address of such a store: it then chunks, deduplicates and writes its xorbs and
shards there. One process at a time can open a folder, so every write token names a new one, every read token a copy.
"""

import shutil
import struct

RECORD = 48  # bytes of a shard's head, and of each of its records
END = b"\xff" * 32


class XetFolders:
    """The folders that tokens name, and which of them holds which file."""

    def __init__(self, root, blob):
        self.root, self._blob = root / "cas", blob
        self.files, self._count = {}, 0  # sha256 → (Xet hash, name of its folder)

    def new(self, source=None):
        """A new folder, with what is in the folder named ``source``."""
        self._count += 1
        folder = self.root / f"{'r' if source else 'w'}{self._count}"
        if source:
            shutil.copytree(self.root / source, folder)
        return folder

    def find(self, sha):
        """(Xet hash, folder) of the file with this SHA-256, from the shards that hf_xet wrote."""
        if sha not in self.files:
            for shard in self.root.glob("w*/xet/xorbs/shards/*.mdb"):
                self._read(shard.read_bytes(), shard.parts[-5])
        return self.files.get(sha)

    def materialize(self, sha, size):
        """The content of a file that came through Xet as a blob, so that it can be read over plain HTTP too."""
        found = self.find(sha)
        if found is not None:
            from hf_xet import XetFileInfo, XetSession

            copy = self.new(found[1])
            with XetSession().new_file_download_group(endpoint=f"local://{copy}") as group:
                group.start_download_file(XetFileInfo(found[0], size), str(self._blob(sha)))
            shutil.rmtree(copy, ignore_errors=True)
        return self._blob(sha).exists()

    def _read(self, raw, folder):
        """The files of a shard: 48-byte records, of which the last of a file has its SHA-256 if it has one."""
        start = RECORD
        while start + RECORD <= len(raw) and raw[start : start + 32] != END:
            flags, number = struct.unpack("<II", raw[start + 32 : start + 40])
            has_sha = flags >> 30 & 1
            last = start + RECORD * (number * (2 if flags >> 31 else 1) + has_sha)
            if has_sha:
                self.files[_hex(raw[last : last + 32])] = _hex(raw[start : start + 32]), folder
            start = last + RECORD


def _hex(raw):
    return "".join(f"{value:016x}" for value in struct.unpack("<4Q", raw))
