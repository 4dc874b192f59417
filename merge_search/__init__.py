"""The search for a merge: weights, method and parameters that score best on validation rows.

A client of the server, which evaluates every round of trials as one batch. Stands above
`adapters_store.merging` and `.evaluation` and above the client; nothing imports it.
"""
