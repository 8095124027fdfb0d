"""The receiving side: takes traces in every format the agent can send, keeps them, and answers questions about them.

Needs the extra ``backend``; never loaded into a traced process.
"""
