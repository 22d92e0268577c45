"""A database of a shop, and some thousand statements of a load on it.

    sqlite.py DATABASE SEED make BYTES
    sqlite.py DATABASE SEED change

The same seed makes the same rows and statements.
"""
import random, sqlite3, sys

WORDS = """order garden chair table delivery wooden blue green late early customer asked for another box the and with of a
invoice paid by card transfer please leave at the door thank you street corner house number left right near station market
return refund damaged missing complete parcel second floor ring twice neighbour evening morning before after holiday""".split()
CITIES = ["Berlin", "Lyon", "Porto", "Gdansk", "Graz", "Utrecht", "Turin", "Malmo", "Cork", "Brno"]
STATES = ["new", "paid", "packed", "sent", "delivered", "returned"]
SCHEMA = """
create table customers (id integer primary key, name text, email text unique, city text, balance real, changed integer);
create table orders (id integer primary key, customer integer, placed integer, state text, total real, note text);
create table lines (id integer primary key, order_id integer, article integer, pieces integer, price real);
create table articles (id integer primary key, code text unique, title text, description text, stock integer);
create index customers_city on customers (city, name);
create index orders_customer on orders (customer);
create index orders_placed on orders (placed);
create index orders_state on orders (state, placed);
create index lines_order on lines (order_id);
create index lines_article on lines (article);
"""
# Rows for each million bytes, about.
CUSTOMERS, ORDERS, ARTICLES = 500, 1600, 120
MONTH = 30 * 86400

path, seed, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
dice = random.Random(seed if what == "make" else seed + 1)
database = sqlite3.connect(path)
database.execute("pragma journal_mode = wal")
database.execute("pragma cache_size = -200000")


def text(least, most):
    return " ".join(dice.choices(WORDS, k=dice.randint(least, most)))


def customer(number):
    name = f"{dice.choice(WORDS).title()} {dice.choice(WORDS).title()}"
    email = f"{dice.choice(WORDS)}.{dice.getrandbits(40):x}.{number}@example.org"
    return name, email, dice.choice(CITIES), dice.randint(0, 100000) / 100, 1790000000 + dice.randrange(MONTH)


def order(customers, placed):
    return dice.randint(1, customers), placed, dice.choice(STATES), dice.randint(100, 90000) / 100, text(3, 20)


def lines_of(order_id, articles):
    return [(order_id, dice.randint(1, articles), dice.randint(1, 9), dice.randint(100, 9900) / 100) for _ in range(dice.randint(1, 5))]


def make(size):
    database.executescript(SCHEMA)
    millions = max(1, size // 1_000_000)
    customers, orders, articles = CUSTOMERS * millions, ORDERS * millions, ARTICLES * millions
    add_customer = "insert into customers (name, email, city, balance, changed) values (?, ?, ?, ?, ?)"
    database.executemany(add_customer, (customer(number) for number in range(customers)))
    rows = ((f"{dice.getrandbits(48):012x}", text(2, 6), text(80, 400), dice.randint(0, 500)) for _ in range(articles))
    database.executemany("insert into articles (code, title, description, stock) values (?, ?, ?, ?)", rows)
    add_order = "insert into orders (customer, placed, state, total, note) values (?, ?, ?, ?, ?)"
    database.executemany(add_order, (order(customers, 1790000000 + MONTH * number // orders) for number in range(orders)))
    add_line = "insert into lines (order_id, article, pieces, price) values (?, ?, ?, ?)"
    database.executemany(add_line, (line for number in range(orders) for line in lines_of(number + 1, articles)))


def change():
    last = {table: database.execute(f"select max(id) from {table}").fetchone()[0] for table in ("customers", "orders", "articles")}
    for number in range(4000):
        now = 1790000000 + MONTH + number
        # Most of what is touched is recent.
        recent = last["orders"] - min(int(dice.expovariate(1 / 5000)), last["orders"] - 1)
        somebody, something = dice.randint(1, last["customers"]), dice.randint(1, last["articles"])
        row = database.execute(
            "insert into orders (customer, placed, state, total, note) values (?, ?, ?, ?, ?)", order(last["customers"], now)
        )
        database.executemany("insert into lines (order_id, article, pieces, price) values (?, ?, ?, ?)", lines_of(row.lastrowid, last["articles"]))
        database.execute("update orders set state = ? where id = ?", (dice.choice(STATES), recent))
        if number % 2 == 0:
            database.execute("update customers set balance = ?, changed = ? where id = ?", (dice.randint(0, 9999), now, somebody))
            database.execute("update articles set stock = stock - 1 where id = ?", (something,))
        if number % 5 == 0:
            gone = dice.randint(1, last["orders"])
            database.execute("delete from lines where order_id = ?", (gone,))
            database.execute("delete from orders where id = ?", (gone,))
        if number % 10 == 0:
            database.execute("insert or ignore into customers (name, email, city, balance, changed) values (?, ?, ?, ?, ?)", customer(number))
        if number % 20 == 0:
            database.commit()


if what == "make":
    make(int(sys.argv[4]))
else:
    change()
database.commit()
database.execute("pragma wal_checkpoint(truncate)")
database.close()
