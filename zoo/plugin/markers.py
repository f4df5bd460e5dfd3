"""What marks a function as a hook of the contract, or as a plugin's implementation of one."""

from __future__ import annotations

import pluggy

PROJECT = "zoo"
FALLBACK = "fallback"  # the answer of `recognises` that counts only where no plugin returns True
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
