-- Version 3 on Citus: the redeliveries of an event are on its machine.
SELECT pg_catalog.create_distributed_table('payproc.redeliveries', 'event_id', colocate_with => 'payproc.events');
