"""One connection to PostgreSQL.

`connection` is the object that the pool lends out, `startup` makes one (blocking, on a helper thread), `inquiry` runs a
query of ours on one, `settings` knows what a session's parameters are and how to move them from one backend to another,
`reset` what is dirty and how to clean it, `cancel` delivers a CancelRequest. Never hears of pools or clients: whoever
holds a backend is its `holder`.

Start with `connection`.
"""
