-- Version 2 on Citus: the corrections of a payment are on its machine.
SELECT pg_catalog.create_distributed_table('payproc.corrections', 'payment_id', colocate_with => 'payproc.payments');
