"""What may leave a client, what has left it, and how much privacy that has cost.

The policy and the ledger are the owner's: a run can ask for less than they allow, never for more.
"""
