"""How gunicorn serves the sample services; whoever runs them by hand may use it, too.

A file, because gunicorn passes over settings that it does not know (older ones), but not over such options.
"""

workers = 1
worker_class = "gthread"
threads = 8
# Users keep their connections, thousands of them, and may be silent for minutes when the rate is low: a server that closes
# them meanwhile makes the first request after that fail. Beyond worker_connections gunicorn closes them after each answer.
keepalive = 600
worker_connections = 20_000
backlog = 4096
graceful_timeout = 10
# A socket in the home folder that all gunicorns of a user would share.
control_socket_disable = True
