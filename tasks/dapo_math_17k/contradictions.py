"""Problems of DAPO-Math-17k that occur with more than one answer: id -> answers."""

CONTRADICTIONS = {
    "a20fbdd4e8bb": ("64", "6"),
    "f97971b8d282": ("15", "25"),
    "d5740f7a71d1": ("99", "21"),
    "e8fbbe37f15f": ("30", "12"),
    "dc242b727392": ("36", "248"),
    "6fa8d42e2a4f": ("239", "48"),
    "05b99618261b": ("-1", "554"),
    "0bb97ecc1906": ("-1", "230"),
    "11b94562acc8": ("-1", "683"),
    "3c2ec6515636": ("-1", "913"),
    "b0f8eb4a4f1f": ("108", "180"),
    "bc61a06cdc44": ("-2", "-1"),
}
