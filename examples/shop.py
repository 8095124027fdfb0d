"""A small shop: sells what the stock service has, and lets a payment service of somebody else charge for it."""

import json
import os
import urllib.error
import urllib.request

import requests
from flask import Flask, jsonify

STOCK_URL = os.environ.get("STOCK_URL", "http://127.0.0.1:8001")
PAYMENT_URL = os.environ.get("PAYMENT_URL", "http://127.0.0.1:8002")

app = Flask(__name__)


@app.get("/")
def index():
    return jsonify(shop="open", try_this="/buy/teapot")


@app.get("/buy/<item>")
def buy(item):
    stock = requests.get(f"{STOCK_URL}/stock/{item}", timeout=5)
    if stock.status_code == 404:
        return jsonify(error=f"we have no {item}"), 404
    stock.raise_for_status()
    price = stock.json()["price"]
    if not charge(price):
        return jsonify(error=f"payment of {price} refused"), 402
    return jsonify(sold=item, price=price)


def charge(amount):
    """Whether the payment service takes the money."""
    body = json.dumps({"amount": amount}).encode()
    request = urllib.request.Request(f"{PAYMENT_URL}/charge", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.status == 200
    except urllib.error.HTTPError as error:
        if error.code == 402:
            return False
        raise
