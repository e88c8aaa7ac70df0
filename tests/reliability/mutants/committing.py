"""Safeguards of the commit: what is synced, and in which order things happen."""

from __future__ import annotations

from tests.reliability.mutants.mutant import Killer, Mutant

__all__ = ["COMMITTING"]

ORDER = Killer("order/test_order.py::test_the_order_of_every_path[nothing fails]")
COMMITTING = [
    Mutant(
        "no fsync of a large file",
        "the bytes of a large file are on the disk before it counts as written",
        "storage/bulk.py",
        "        file.end(name, data.nbytes)\n        posix.fsync(fd)\n",
        "        file.end(name, data.nbytes)\n",
        (ORDER,),
    ),
    Mutant(
        "no fsync of a small file",
        "the bytes of a small tensor file are on the disk before it counts as written",
        "storage/small.py",
        "        await worker.call(posix.fsync, file.fileno())\n",
        '        if not name.endswith(".safetensors"):\n'
        "            await worker.call(posix.fsync, file.fileno())\n",
        (ORDER,),
    ),
    Mutant(
        "no fsync of the manifest",
        "the manifest is on the disk before the rename",
        "storage/small.py",
        "        await worker.call(posix.fsync, file.fileno())\n",
        '        if name != "manifest.json":\n            await worker.call(posix.fsync, file.fileno())\n',
        (ORDER,),
    ),
    Mutant(
        "no fsync of the report",
        "a report is on the disk before it takes its name",
        "storage/small.py",
        "        await worker.call(posix.fsync, file.fileno())\n",
        '        if not name.startswith(".tmp-report"):\n'
        "            await worker.call(posix.fsync, file.fileno())\n",
        (ORDER,),
    ),
    Mutant(
        "no fsync of the temporary directory",
        "the names of the files are on the disk before the rename",
        "storage/writing.py",
        "    with save_errors(attempt.path, attempt.step):\n        posix.fsync(attempt.fd)\n",
        "",
        (ORDER,),
    ),
    Mutant(
        "no fsync of the directory above",
        "the rename is on the disk before the checkpoint counts as committed",
        "storage/writing.py",
        '    with save_errors(path, attempt.step, "unknown"):\n        posix.fsync(root)\n',
        "",
        (ORDER,),
    ),
    Mutant(
        "no fsync of new ancestors",
        "the names of new directories above the checkpoints are on the disk",
        "storage/posix.py",
        "        _make_name_durable(made)\n",
        "",
        (ORDER,),
    ),
    Mutant(
        "no fsync after a report is added",
        "the name of a report is on the disk before it counts as added",
        "storage/writing.py",
        '    with save_errors(path, step, "unknown"):\n        posix.fsync(directory)\n',
        "",
        (ORDER,),
    ),
    Mutant(
        "no fsync before rubbish is deleted",
        "a checkpoint is out of sight on the disk too before its files are deleted",
        "storage/writing.py",
        "            posix.rename(trash, name, root)\n            return False\n        posix.fsync(root)\n",
        "            posix.rename(trash, name, root)\n            return False\n",
        (ORDER,),
    ),
    Mutant(
        "no fsync of a linked file",
        "a file taken over from an earlier checkpoint is on the disk before it counts as written",
        "storage/writing.py",
        "                posix.fsync(fd)\n                return True\n",
        "                return True\n",
        (ORDER,),
    ),
    Mutant(
        "no fsync of what is found",
        "names that another process may not have made durable yet are, before they are listed",
        "storage/writing.py",
        "        posix.fsync(root)\n    except OSError as error:\n",
        "        os.fstat(root)\n    except OSError as error:\n",
        (ORDER,),
    ),
    Mutant(
        "no fsync before sweeping",
        "names are on the disk before what a dead writer left is deleted",
        "storage/writing.py",
        "    posix.fsync(root)\n    for name in os.listdir(root):\n",
        "    for name in os.listdir(root):\n",
        (ORDER,),
    ),
    Mutant(
        "no fsync of a pin",
        "the name of a pin is on the disk before the checkpoint counts as pinned",
        "storage/pins.py",
        "step_name(step), directory))\n        posix.fsync(directory)\n",
        "step_name(step), directory))\n",
        (ORDER,),
    ),
    Mutant(
        "rename before the directory is synced",
        "the names of the files are on the disk before the rename, not after it",
        "storage/writing.py",
        "    with save_errors(attempt.path, attempt.step):\n        posix.fsync(attempt.fd)\n    try:\n"
        "        old = _place(root, attempt, final)\n",
        "    try:\n        old = _place(root, attempt, final)\n        posix.fsync(attempt.fd)\n",
        (ORDER,),
    ),
    Mutant(
        "rename before the manifest",
        "the manifest is in the directory before it takes a checkpoint's name",
        "storage/local.py",
        "        commit = writing.commit\n",
        "        def commit(root: int, location: str, this: Attempt) -> bool:\n"
        '            late = f"late-{this.id}"\n'
        "            os.rename(MANIFEST, late, src_dir_fd=this.fd, dst_dir_fd=root)\n"
        "            replaced = writing.commit(root, location, this)\n"
        '            os.rename(late, f"{step_name(step)}/{MANIFEST}", src_dir_fd=root, dst_dir_fd=root)\n'
        "            return replaced\n\n",
        (ORDER,),
    ),
    Mutant(
        "older ones deleted before the commit",
        "older checkpoints go only when the new one is durable",
        "saver/writing.py",
        "        await self._store.commit(job.attempt, step)\n",
        "        for older in await self._store.steps():\n"
        "            if older < step:\n"
        "                await self._store.remove(older)\n"
        "        await self._store.commit(job.attempt, step)\n",
        (ORDER,),
    ),
    Mutant(
        "deleted under its own name",
        "a checkpoint that is deleted is out of sight at one stroke first",
        "storage/writing.py",
        "        trash = _trash(step)\n        posix.rename(name, trash, root)\n",
        "        trash = _trash(step)\n        posix.remove_tree(name, root)\n        return True\n",
        (ORDER,),
    ),
]
