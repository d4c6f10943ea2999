"""Masks and a row filter over Chinook: twenty queries of an analyst give what the same queries give a superuser over views
that were written by hand with the same expressions.
"""

import re

import chinook
import guard

# relation -> column -> expression
MASKS = {
    "customer": {
        "email": "'x@' || split_part(email, '@', 2)",
        "phone": "left(phone, 3) || '***'",
        "fax": "NULL::character varying",
        "address": "regexp_replace(address, '[0-9]', '#', 'g')",
    },
    "employee": {
        "email": "'staff@' || split_part(email, '@', 2)",
        "phone": "left(phone, 3) || '***'",
        "address": "'hidden'",
        "birth_date": "date_trunc('year', birth_date)",
    },
}
FILTER = "support_rep_id = 3"

QUERIES = {
    "customers": "select * from customer order by customer_id",
    "one customer": "select first_name, email, phone from customer where customer_id = 1",
    "customers by country": "select country, count(*), min(email), max(phone) from customer group by country order by 1",
    "spending": "select c.customer_id, c.email, sum(i.total) from customer c join invoice i using (customer_id) group by 1, 2 order by 3 desc, 1",
    "top track per customer": """select distinct on (c.customer_id) c.email, t.name, il.unit_price from customer c
        join invoice i using (customer_id) join invoice_line il using (invoice_id) join track t using (track_id) order by c.customer_id, t.name""",
    "customers without invoices": "select c.email, i.invoice_id from customer c left join invoice i on i.customer_id = c.customer_id and i.total > 15 where i.invoice_id is null order by 1",
    "invoices and their customers": "select i.invoice_id, c.email, c.address from invoice i left join customer c using (customer_id) order by 1",
    "running totals": """select c.email, i.invoice_date, sum(i.total) over (partition by c.customer_id order by i.invoice_date, i.invoice_id)
        from customer c join invoice i using (customer_id) order by c.customer_id, i.invoice_date, i.invoice_id""",
    "rank in country": "select country, email, rank() over (partition by country order by email) from customer order by 1, 3, 2",
    "representatives": """select e.first_name, e.email, e.birth_date, count(c.customer_id) from employee e
        left join customer c on c.support_rep_id = e.employee_id group by e.employee_id, 1, 2, 3 order by 1""",
    "who reports to whom": "select e.email, b.email, b.phone from employee e left join employee b on b.employee_id = e.reports_to order by e.employee_id",
    "age of the staff": "select extract(year from birth_date), count(*) from employee group by 1 order by 1",
    "mail domains": "select split_part(email, '@', 2), count(*) from customer group by 1 order by 2 desc, 1",
    "staff and customers": "select email from employee union select email from customer order by 1",
    "same city": "select c.email, e.email from customer c join employee e on e.country = c.country order by 1, 2",
    "as json": "select json_agg(c order by customer_id) from customer c",
    "rows": "select c, row_to_json(c) from customer c order by customer_id",
    "a cte": "with rich as (select customer_id from invoice group by 1 having sum(total) > 40) select c.email from customer c join rich using (customer_id) order by c.customer_id",
    "in a subquery": "select count(*) from invoice where customer_id in (select customer_id from customer where country = 'USA')",
    "lateral": "select c.email, l.n from customer c, lateral (select count(*) n from invoice i where i.customer_id = c.customer_id) l order by c.customer_id",
    "genres of a customer": """select g.name, count(distinct c.email) from genre g join track t using (genre_id) join invoice_line il using (track_id)
        join invoice i using (invoice_id) join customer c using (customer_id) group by 1 order by 2 desc, 1""",
    "grouping sets": "select country, city, count(*), max(address) from customer group by rollup (country, city) order by 1, 2",
}


def setup(server: guard.Server) -> None:
    chinook.setup(server)
    with server.connect(dbname=chinook.DATABASE) as connection:
        connection.execute("create role support login; grant select on all tables in schema public to support")
        connection.execute("create schema hand")
        for relation, masks in MASKS.items():
            columns = [row[0] for row in connection.execute("select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 order by attnum", (f"public.{relation}",))]
            types = dict(connection.execute("select attname, format_type(atttypid, atttypmod) from pg_attribute where attrelid = %s::regclass and attnum > 0", (f"public.{relation}",)))
            shown = ", ".join(f"({masks[column]})::{types[column]} as {column}" if column in masks else column for column in columns)
            connection.execute(f"create view hand.{relation} as select {shown} from public.{relation}" + (f" where {FILTER}" if relation == "customer" else ""))
            for column, expression in masks.items():
                connection.execute("select agent_guard.mask_column(%s::regclass, %s, expression => %s)", (f"public.{relation}", column, expression))
        connection.execute("select agent_guard.create_policy('support'); select agent_guard.allow('support', array['select'], array['public.*'])")
        connection.execute("select agent_guard.filter_rows('support', 'public.customer', %s)", (FILTER,))
        connection.execute("select agent_guard.guard_role('support')")
    server.token = server.window("support", "support", dbname=chinook.DATABASE)[1]


def as_analyst(server: guard.Server):
    return server.connect("support", chinook.DATABASE, options=f"-c agent_guard.token={server.token} -c search_path=public")


def over_views(server: guard.Server):
    return server.connect("postgres", chinook.DATABASE, options="-c search_path=hand,public")


def gives_the_same(server: guard.Server, query: str) -> None:
    with over_views(server) as connection:
        wanted = connection.execute(query).fetchall()
    with as_analyst(server) as connection:
        found = connection.execute(query).fetchall()
    assert wanted, "the query gives nothing to compare"
    assert found == wanted, f"the views gave {wanted!r:.400}, the agent got {found!r:.400}"


def test_the_analyst_reads_no_raw_value(server):
    raw = {value for column in MASKS["customer"] for (value,) in server.rows(f"select {column} from customer where {column} ~ '[0-9]'", dbname=chinook.DATABASE)}
    hidden = {value for (value,) in server.rows("select last_name from customer where support_rep_id <> 3", dbname=chinook.DATABASE)}
    with as_analyst(server) as connection:
        for query in QUERIES.values():
            shown = repr(connection.execute(query).fetchall())
            assert not [value for value in raw if value in shown], query
            assert not [value for value in hidden if f"'{value}'" in shown], query


def test_plans_keep_their_indexes(server):
    with as_analyst(server) as connection, over_views(server) as control:
        for one in (connection, control):
            one.execute("set enable_seqscan = off")
        for query in ("select email from customer where customer_id = 5", QUERIES["spending"], QUERIES["lateral"], QUERIES["who reports to whom"]):
            # A view's columns go by its own table's name.
            plans = [[re.sub(r"\b(customer|employee|c|e|b)\b(_\d)?( [a-z]$)?", "_", row[0]) for row in one.execute("explain (costs off) " + query)] for one in (connection, control)]
            assert plans[0] == plans[1], plans


globals().update(chinook.each(QUERIES, gives_the_same))


if __name__ == "__main__":
    guard.run(globals(), extension=False)
