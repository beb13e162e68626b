"""Acknowledged is durable: what the coordinator's system calls say, and what it does when its disk fails."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import tables
from processes import wait_for
from programs import DONE
from proof import Proof, report
from system_calls import READS, SYNCS, WRITES, Call, Strace
from tables import Table

TABLES = [Table("shop", "orders", rows=100), Table("shop", "customers", rows=100)]
LOG = "rekeeper.sqlite-wal"
# Every record of a migration begins like this, as JSON.
RECORD = re.compile(rb'\{"kind":"(intent|event)","attempt":(\d+),')
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Numbers of fields in agents.proto.
HELLO, EVENT, COMMAND, ACKNOWLEDGED = 1, 2, 2, 4


@dataclass
class Side:
    """One direction of a connection: HTTP/2 frames with the messages of gRPC in them."""

    bytes: bytearray = field(default_factory=bytearray)
    # Up to which byte of the whole each call went.
    ends: list[tuple[int, Call]] = field(default_factory=list)

    def add(self, call: Call) -> None:
        """What a call read or wrote."""
        self.bytes += call.data[: call.result]
        self.ends.append((len(self.bytes), call))

    def call_at(self, position: int) -> Call:
        """The call that read or wrote the byte."""
        return next(call for end, call in self.ends if position < end)

    def messages(self) -> Iterator[tuple[bytes, Call, Call]]:
        """Each message of the agents' stream with the calls of its first and its last byte."""
        position = len(PREFACE) if self.bytes.startswith(PREFACE) else 0
        data, places = bytearray(), []
        while position + 9 <= len(self.bytes):
            length, is_data = int.from_bytes(self.bytes[position : position + 3]), self.bytes[position + 3] == 0
            start, position = position + 9, position + 9 + length
            if is_data:
                data += self.bytes[start:position]
                places += range(start, min(position, len(self.bytes)))
        at = 0
        while at + 5 <= len(data):
            end = at + 5 + int.from_bytes(data[at + 1 : at + 5])
            if end > len(data):
                return
            yield bytes(data[at + 5 : end]), self.call_at(places[at]), self.call_at(places[end - 1])
            at = end


def fields(message: bytes) -> dict[int, int | bytes]:
    """The fields of a protobuf message: numbers and texts, which is all that is looked at."""
    found, at = {}, 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte, at = message[at], at + 1
            value, shift = value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(message):
        key = number()
        if key & 7 == 0:
            found[key >> 3] = number()
        else:
            assert key & 7 == 2
            length = number()
            found[key >> 3], at = message[at : at + length], at + length
    return found


class Trace:
    """What the coordinator read from the agents, wrote down, synced, and sent them."""

    def __init__(self, calls: list[Call], agents: set[str]):
        self.syncs = [c for c in calls if c.name in SYNCS and c.file.endswith(LOG) and c.result == 0]
        self.written: dict[tuple[str, int], Call] = {}
        for call in calls:
            if call.name in WRITES and call.file.endswith(LOG):
                for kind, attempt in RECORD.findall(call.data):
                    self.written.setdefault((kind.decode(), int(attempt)), call)
        self.connections = []
        for name in {c.file for c in calls if c.file.startswith("TCP:")}:
            said, sent = Side(), Side()
            for call in calls:
                if call.file == name and call.result > 0 and call.name in READS | WRITES:
                    (said if call.name in READS else sent).add(call)
            if self._is_agent(said, agents):
                self.connections.append((said, sent))

    @staticmethod
    def _is_agent(said: Side, agents: set[str]) -> bool:
        if not said.bytes.startswith(PREFACE):
            return False
        first = next((message for message, *_ in said.messages()), b"")
        return first[:1] == bytes([HELLO << 3 | 2]) and any(agent.encode() in first for agent in agents)

    def synced_between(self, earlier: Call, later: Call) -> bool:
        """Whether a sync of the log was entered after the one call was left, and left before the other was entered."""
        return any(earlier.left < sync.entered and sync.left < later.entered for sync in self.syncs)

    def acknowledgements(self) -> list[tuple[int, Call, Call]]:
        """Every acknowledged event: its attempt, the call that read it, the one that sent the acknowledgement."""
        found = []
        for said, sent in self.connections:
            events = {}
            for message, _, last in said.messages():
                if event := fields(message).get(EVENT):
                    event = fields(event)
                    events[event[1]] = (event[3], last)
            for message, first, _ in sent.messages():
                if (acknowledged := fields(message).get(ACKNOWLEDGED)) is not None:
                    upto = fields(acknowledged)[1]
                    found += [(*events.pop(sequence), first) for sequence in sorted(events) if sequence <= upto]
        return found

    def commands(self) -> list[tuple[int, Call]]:
        """Every command that was sent: its attempt, and the call that sent it."""
        return [
            (fields(command)[2], first)
            for _, sent in self.connections
            for message, first, _ in sent.messages()
            if (command := fields(message).get(COMMAND))
        ]

    def check(self) -> tuple[int, int]:
        """Fail unless all of it was on disk before it was told; how many acknowledgements and commands there were."""
        acknowledgements, commands = self.acknowledgements(), self.commands()
        for attempt, read, told in acknowledgements:
            written = self.written[("event", attempt)]
            assert read.left < written.entered, f"the event of attempt {attempt} was written before it was read"
            assert self.synced_between(written, told), f"acknowledged before it was on disk: attempt {attempt}"
        for attempt, told in commands:
            written = self.written[("intent", attempt)]
            assert self.synced_between(written, told), f"ordered before it was on disk: attempt {attempt}"
        return len(acknowledgements), len(commands)


def follow_from_the_first_connection(cluster, inject: str = "") -> Strace:
    """Follow the coordinator, and let the agents connect anew: their connections are read from the first byte."""
    strace = Strace(cluster.coordinator.pid, cluster.directory / "coordinator.strace", inject)
    for agent in cluster.agents.values():
        agent.restart()
    cluster.rekeeper.wait_for_agents(*cluster.agents)
    return strace


# A disk that takes its time shows what does not wait for it.
@pytest.mark.parametrize("delay", [0, 50_000], ids=["disk as it is", "slow disk"])
def test_nothing_is_acknowledged_or_ordered_before_it_is_on_disk(one_host, delay):
    tables.create(one_host.shards(), TABLES)
    inject = f"fsync,fdatasync:delay_enter={delay}" if delay else ""
    strace = follow_from_the_first_connection(one_host, inject)
    one_host.rekeeper("plan", "m1").expect(DONE)
    one_host.rekeeper("start", "m1", "--yes").expect(DONE)
    events = one_host.rekeeper.events("m1")
    trace = Trace(strace.stop(), set(one_host.agents))
    acknowledged, ordered = trace.check()
    print(f"{ordered} commands, {acknowledged} acknowledgements, {len(trace.syncs)} syncs of the log")
    # All of them were seen: the trace is whole.
    assert ordered == len([e for e in events if e["kind"] == "intent"]) > 10
    assert acknowledged == len([e for e in events if e["kind"] in ("done", "failed")]) == ordered


# The number of the sync that fails, counted in the thread that writes.
@pytest.mark.parametrize("number", [1, 6, 15])
def test_a_failed_sync_stops_the_coordinator_and_the_next_one_goes_on(one_host, number):
    tables.create(one_host.shards(), TABLES)
    proof = Proof(one_host.directory)
    before, rekeeper, coordinator = proof.record(), one_host.rekeeper, one_host.coordinator
    rekeeper("plan", "m1").expect(DONE)
    strace = follow_from_the_first_connection(one_host, f"fsync,fdatasync:error=EIO:when={number}+")
    following = rekeeper.background("start", "m1", "--yes", output=one_host.directory / "start.out")
    try:
        wait_for(lambda: not coordinator.is_running, "the coordinator to stop", timeout=60)
        calls = strace.stop()
        failed = [call for call in calls if call.name in SYNCS and call.result < 0]
        assert failed, "no sync failed"
        # Of nothing that came after it anything was told.
        acknowledged, ordered = Trace(calls, set(one_host.agents)).check()
        print(f"sync {number} failed after {ordered} commands and {acknowledged} acknowledgements")
        print(coordinator.log_tail(300))
        assert coordinator.exit_code not in (0, None)
        coordinator.start()
        # The order itself may be what could not be written: whoever gave it was not told that it was.
        wait_for(lambda: rekeeper("status", "m1").code == DONE, "the coordinator to answer")
        if rekeeper.status("m1")["state"] == "PLANNED":
            rekeeper("start", "m1", "--yes").expect(DONE)
        rekeeper.wait_for_state("m1", "COMPLETED", timeout=120)
    finally:
        following.terminate()
        following.wait()
    assert report(proof.check(before))
