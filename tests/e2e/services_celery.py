"""A celery application whose queue is a folder (QUEUE); each task that is through writes its number to a file (DONE)."""

import os

from celery import Celery

from autoinstr import span

folder = os.environ["QUEUE"]
app = Celery("tasks", broker="filesystem://")
app.conf.broker_transport_options = {"data_folder_in": folder, "data_folder_out": folder, "control_folder": f"{folder}-control"}
app.conf.task_ignore_result = True


@app.task(name="work")
def work(number):
    with span("work"), span("part"):
        pass
    with open(os.environ["DONE"], "a") as done:
        done.write(f"{number}\n")


if __name__ == "__main__":
    for number in range(30):
        work.delay(number)
