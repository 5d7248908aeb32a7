"""Binary upgrade: a new process takes the place of this one without a moment in which nobody listens.

What is handed over are the listening sockets, which go down to a child process, and, once that has opened its rooms and
said that it is ready, the connected clients: each between two transactions, by a socket of their own (`channel`), as a
descriptor and a record (`client.records`). The old process serves those that cannot go until they leave or its drain
ends.

May import: client, config, runtime, transport and below. Begin with `successor` for the process, `handover` for clients;
which client may go, and what of it is told, is the business of `client.moving`.
"""
