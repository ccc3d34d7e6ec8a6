"""Ctrl-C is tested: a shell that starts the tests in the background would have them, and their children, ignore it."""

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
