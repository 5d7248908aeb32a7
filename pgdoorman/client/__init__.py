"""One connected client.

`login` brings a socket from its first byte to a `session`; `serving` hears what the client says, `extended_query`
translates its prepared statements, `relay` passes on what the server says, `stickiness` watches what must stay with the
client and must not leak, `farewell` cares for a backend whose client left, `closing` turns errors into messages,
`cancel_keys` knows whose query a cancel request means. Imports pool and what lies below; never admin.

Start with `session`.
"""
