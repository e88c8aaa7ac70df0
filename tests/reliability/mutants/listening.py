"""Safeguards of the session: who is called when, what is kept, and what a failure may not cost."""

from __future__ import annotations

from tests.reliability.mutants.mutant import Killer, Mutant

__all__ = ["LISTENING"]

GRAMMAR = (
    "schedules/test_schedules.py::test_whatever_fails_the_grammar_holds_and_the_stores_hold_what_was_told[0]"
)
SCHEDULES = (Killer("schedules"),)
CANCEL = (Killer("cancel"),)
ORDER = (Killer("order/test_order.py::test_the_order_of_every_path[nothing fails]"),)

LISTENING = [
    Mutant(
        "two callbacks at once",
        "at most one callback runs at any moment",
        "runtime/lane.py",
        "                    return await call.outcome\n",
        "                    await asyncio.sleep(0)\n                    await asyncio.sleep(0)\n"
        "                    return call.outcome.result() if call.outcome.done() else Outcome()\n",
        SCHEDULES,
    ),
    Mutant(
        "the next round does not wait",
        "no save begins before the callbacks of the one before it are through",
        "core/machine.py",
        "        if held is not None and not self._sealed:\n",
        "        if held is not None:\n",
        SCHEDULES,
    ),
    Mutant(
        "end stops at the first error",
        "every listener that began gets its end, whatever the others did",
        "runtime/callbacks.py",
        '                failures.append(ListenerFailure(entry.listener, "end", step, outcome.error))\n',
        '                failures.append(ListenerFailure(entry.listener, "end", step, outcome.error))\n'
        "                self._begun.clear()\n",
        (Killer("schedules"), Killer(GRAMMAR, "", "ci")),
    ),
    Mutant(
        "no end after an error",
        "every listener that began gets its end, whatever ended the session",
        "session/leaving.py",
        "    steps = (_begin, _finish_saves, _end_all, ",
        "    steps = (_begin, _finish_saves, *([_end_all] if error is None else []), ",
        SCHEDULES,
    ),
    Mutant(
        "after_save before the commit",
        "after_save is called when the checkpoint is durable, and not before",
        "runtime/scheduler.py",
        "        if await self._try(self._runners[hook].commit(step), otherwise=False):\n"
        "            self.tell(p.Committed(hook))\n"
        "        else:\n"
        "            self._fail(hook, p.CommitFailed(hook))\n",
        "        self.tell(p.Committed(hook))\n"
        "        await self._try(self._runners[hook].commit(step), otherwise=False)\n",
        SCHEDULES,
    ),
    Mutant(
        "the event before the commit",
        "the checkpoint is called committed when it is durable, and not before",
        "runtime/runner.py",
        "        attempt.pending.allow_commit()\n"
        "        try:\n"
        "            attempt.checkpoint = self.latest = await attempt.pending\n",
        "        self._host.emit(\n"
        "            events.SaveCommitted,\n"
        "            directory=self.directory,\n"
        "            step=step,\n"
        '            path=f"{self.directory}/step-{step:08d}",\n'
        "            bytes=0,\n"
        "            seconds=0.0,\n"
        "        )\n"
        "        attempt.pending.allow_commit()\n"
        "        try:\n"
        "            attempt.checkpoint = self.latest = await attempt.pending\n"
        "            return True\n",
        SCHEDULES,
    ),
    Mutant(
        "a vote at the final save is lost",
        "votes count at every save",
        "core/machine.py",
        "        for vote in event.votes:\n",
        '        for vote in event.votes if self._kind != "demand" else ():\n',
        SCHEDULES,
    ),
    Mutant(
        "the report before after_save",
        "a report says that after_save is through, so it is written after that",
        "runtime/scheduler.py",
        "        votes = await self._try(self._runners[hook].report(step), otherwise=())\n",
        "        await self._try(self._runners[hook].settle(step), otherwise=None)\n"
        "        votes = await self._try(self._runners[hook].report(step), otherwise=())\n",
        SCHEDULES,
    ),
    Mutant(
        "whichever is written first",
        "the saves of a round are committed and reported in the order of their hooks",
        "core/machine.py",
        "                save.blocking or (self._sealed and save is self._saves[0])\n",
        "                save.blocking or self._sealed\n",
        SCHEDULES,
    ),
    Mutant(
        "after_save stops at the first error",
        "every listener hears of a durable checkpoint",
        "runtime/callbacks.py",
        '                failures.append(ListenerFailure(entry.listener, "after_save", step, outcome.error))\n',
        '                failures.append(ListenerFailure(entry.listener, "after_save", step, outcome.error))\n'
        "                break\n",
        SCHEDULES,
    ),
    Mutant(
        "saved after a failed before_save",
        "nothing is saved when a before_save fails",
        "runtime/callbacks.py",
        '                self._end_phase_if_told(entry.listener, "before_save", step, outcome.error)\n',
        '                self._note([ListenerFailure(entry.listener, "before_save", step, outcome.error)])\n',
        SCHEDULES,
    ),
    Mutant(
        "cancelled after the rename began",
        "cancel() is refused once the rename has begun",
        "saver/pending.py",
        '        if self._phase in ("committing", "done", "failed"):\n',
        '        if self._phase in ("done", "failed"):\n',
        (Killer("cancel/test_cancelled_saves.py"),),
    ),
    Mutant(
        "the writer is not waited for",
        "a cancelled wait goes on until the thread has ended",
        "system/threads.py",
        "        except asyncio.CancelledError as error:\n            cancelled = error\n        except MemoryError",
        "        except asyncio.CancelledError as error:\n            cancelled = error\n            break\n"
        "        except MemoryError",
        CANCEL,
    ),
    Mutant(
        "the one restored from is deleted",
        "the checkpoint that the run was resumed from is never deleted",
        "saver/keeping.py",
        "                protected.add(self.restored_from)\n",
        "                protected.discard(self.restored_from)\n",
        ORDER,
    ),
    Mutant(
        "damaged ones count",
        "a damaged checkpoint does not count among those that are kept",
        "saver/keeping.py",
        "            found, _ = await self._catalog.listing()\n"
        "            candidates = [\n"
        "                Candidate(c.step, c.created, c.metrics) for c in found if c.step not in self.uncertain\n"
        "            ]\n",
        "            candidates = [Candidate(step, 0.0, {}) for step in await self._store.steps()]\n",
        ORDER,
    ),
    Mutant(
        "newest by the time of writing",
        "the newest checkpoint is the one of the highest step",
        "saver/restoring.py",
        "sorted(await self._store.steps(), reverse=True)\n",
        "[c.step for c in sorted((await self._catalog.listing())[0], key=lambda c: -c.created)]\n",
        ORDER,
    ),
]
