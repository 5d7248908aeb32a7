"""The language: bytes to meaning and back.

Owns message codes, framing, the start-up packet, results and errors as messages, and the exchange (which reply ends
which request). Imports only `errors`. Knows no socket, clock, thread or setting.

Start with `codes`, then `framing`, then `exchange`.
"""
