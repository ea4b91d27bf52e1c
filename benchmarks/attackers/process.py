"""One attacker, in a process of its own: ``python process.py NAME PORT OPS_PORT MAX_MESSAGE_BYTES``.

The first line of stdin is the token. The process prints ``ready``, attacks from the line ``begin`` on, prints its
counts as JSON at each line ``report``, and ends with its stdin. It has a lower priority than others.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from priority import stand_back

from attackers import call_attackers, frame_attackers
from attackers.session import Target

NICENESS = 10  # server and good clients go first, as they would where attackers have machines of their own

ATTACKERS: dict[str, Callable[[Target], None]] = {
    "deaf-watch": frame_attackers.deaf_watch,
    "pixel-bombs": call_attackers.pixel_bombs,
    "empty-inputs": call_attackers.empty_inputs_calls,
    "unfinished": call_attackers.unfinished,
    "bad-path": frame_attackers.bad_path,
    "goaway-text": frame_attackers.goaway_text,
    "half-open-http": frame_attackers.half_open_http,
    "idle-strangers": frame_attackers.idle_strangers,
    "large-requests": call_attackers.large_requests,
    "many-episodes": call_attackers.many_episodes,
    "rapid-reset": frame_attackers.rapid_reset,
    "slow-loris": frame_attackers.slow_loris,
    "control-flood": frame_attackers.control_flood,
    "health-bombs": frame_attackers.health_bombs,
}


def main() -> None:
    """Attack as stdin says."""
    name, *numbers = sys.argv[1:]
    port, ops_port, max_message_bytes = map(int, numbers)
    token = sys.stdin.readline().strip()
    began, faults = threading.Event(), list[str]()

    def begin() -> None:
        print("ready", flush=True)
        began.wait()

    def note(raised: threading.ExceptHookArgs) -> None:
        faults.append("".join(traceback.format_exception(raised.exc_value)))

    threading.excepthook = note
    os.setsid()
    stand_back(NICENESS)
    target = Target(port=port, ops_port=ops_port, token=token, max_message_bytes=max_message_bytes, begin=begin)
    threading.Thread(target=ATTACKERS[name], args=(target,), daemon=True).start()
    for line in sys.stdin:
        if line.strip() == "begin":
            began.set()
        else:
            print(json.dumps({**target.tally.snapshot(), "faults": faults}), flush=True)
    os._exit(0)  # threads may be in the middle of a call


if __name__ == "__main__":
    main()
