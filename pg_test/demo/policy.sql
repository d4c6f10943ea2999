-- What the order desk's agent may do. Everything that no rule allows is denied; a deny holds wherever it is reached
-- from: a function, a view, a cascade.
\set ON_ERROR_STOP on
\set QUIET on
\o /dev/null

select agent_guard.guard_role('shop_agent');

select agent_guard.create_policy('order_desk', 'Takes orders; removes nothing; sees nothing of hr');
select agent_guard.allow('order_desk', array['select'], array['shop.*']);
select agent_guard.allow('order_desk', array['insert'], array['shop.orders', 'shop.order_items']);
select agent_guard.allow('order_desk', array['update'], array['shop.orders'], columns => array['status'],
                         require_where => true, note => 'one order at a time, never all of them');
select agent_guard.allow('order_desk', array['delete'], array['shop.customers'], require_where => true);
select agent_guard.allow('order_desk', array['execute'], array['function shop.*']);
select agent_guard.deny('order_desk', array['drop', 'truncate'], note => 'agents remove no tables');
select agent_guard.deny('order_desk', array['delete'], array['shop.payments'], note => 'payments are kept ten years');
