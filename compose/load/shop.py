"""People who go shopping: mostly for tea, now and then for what there is not, or for more than they can pay.

locust -f shop.py --host http://127.0.0.1:8080
"""

from locust import FastHttpUser, between, task


class Shopper(FastHttpUser):
    wait_time = between(0.05, 0.2)

    @task(8)
    def teapot(self):
        self.client.get("/buy/teapot")

    @task(1)
    def moon(self):
        self._expect("/buy/moon", 404)

    @task(1)
    def yacht(self):
        self._expect("/buy/yacht", 402)

    def _expect(self, path, status):
        with self.client.get(path, catch_response=True) as answer:
            if answer.status_code == status:
                answer.success()
            else:
                answer.failure(f"{path} answered {answer.status_code} instead of {status}")
