"""How many users there are when: each file is a locustfile to be loaded beside a scenario."""
