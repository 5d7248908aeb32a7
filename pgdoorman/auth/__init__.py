"""Who are you: both halves of every authentication method, as dialogues or plain functions.

Owns stored secrets, MD5, SCRAM, SASLprep, the host-based rules (HBA), user-name maps, and the two conversations: the
log-in of a client and our own log-in to PostgreSQL. Imports only `protocol` and `errors`. No socket, clock, thread or
setting: facts about a connection and the owner's wishes come in as values, questions go out through the dialogue.

Start with `client_login` and `backend_login`; `hba` says which method they are to use.
"""
