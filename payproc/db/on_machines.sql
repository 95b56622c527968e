-- Citus alone: the functions that claim and look up a machine's share of a batch. The command calls
-- each of them once a machine, with an id of that machine first, and Citus runs the call there.
--
-- A list is a machine's share of a batch. Its parts are separated by U+001E, one for each shard, so
-- a statement reads one shard; their items are separated by U+001F. Without the parts each statement
-- would look for all ids in all shards. Each statement is planned with its ids, because a generic
-- plan, which the role's plan_cache_mode may ask for, cannot find the shard.
--
-- A claim says which payment and type an event_id belongs to. It is made before the event is
-- recorded, waits for the disk, and never changes. If its run ends before the event is recorded, a
-- later delivery of the same event uses the same claim.

-- Return the earlier claims of event_ids. If in_claim is set, claim the others. The claims are read
-- again after that, because another process may have been faster. The number of inserted rows that
-- Citus returns does not show that, because it includes those that met another claim.
CREATE OR REPLACE FUNCTION payproc.claim_event_ids(
    in_event_id text,
    in_claim boolean,
    in_event_ids text,
    in_payment_ids text,
    in_types text
)
RETURNS TABLE (claimed_id text, claimed_payment_id text, claimed_type text)
LANGUAGE plpgsql
AS $function$
DECLARE
    part_ends CONSTANT text := chr(30);
    item_ends CONSTANT text := chr(31);
    event_ids CONSTANT text[] := string_to_array(replace(in_event_ids, part_ends, item_ends), item_ends);
    payment_ids CONSTANT text[] := string_to_array(in_payment_ids, item_ends);
    types CONSTANT text[] := string_to_array(in_types, item_ends);
    part text;
    part_ids text[];
    part_claims bigint;
    missing bigint := pg_catalog.cardinality(event_ids);
BEGIN
    SET LOCAL plan_cache_mode = force_custom_plan;
    FOREACH part IN ARRAY string_to_array(in_event_ids, part_ends) LOOP
        part_ids := string_to_array(part, item_ends);
        RETURN QUERY SELECT claim.event_id, claim.payment_id, claim.type::text
        FROM payproc.event_ids AS claim WHERE claim.event_id = ANY (part_ids);
        GET DIAGNOSTICS part_claims = ROW_COUNT;
        missing := missing - part_claims;
    END LOOP;
    IF missing = 0 OR NOT in_claim THEN
        RETURN;
    END IF;
    -- Also on another machine, to which a shard has moved.
    SET LOCAL citus.propagate_set_commands TO local;
    SET LOCAL synchronous_commit TO on;
    INSERT INTO payproc.event_ids (event_id, payment_id, type)
    SELECT each.event_id, each.payment_id, each.type::payproc.event_type
    FROM unnest(event_ids, payment_ids, types) AS each(event_id, payment_id, type)
    ON CONFLICT DO NOTHING;
    FOREACH part IN ARRAY string_to_array(in_event_ids, part_ends) LOOP
        part_ids := string_to_array(part, item_ends);
        RETURN QUERY SELECT claim.event_id, claim.payment_id, claim.type::text
        FROM payproc.event_ids AS claim
        JOIN unnest(event_ids, payment_ids, types) AS own(event_id, payment_id, type) ON own.event_id = claim.event_id
        WHERE claim.event_id = ANY (part_ids)
          AND (claim.payment_id <> own.payment_id OR claim.type::text <> own.type);
    END LOOP;
END
$function$;

-- Return the events on record under pairs of payment_id and event_id, then the payments. In the
-- other order, an event recorded between the two could pass for new. The columns of an event are
-- those of the query in lookup.py.
CREATE OR REPLACE FUNCTION payproc.look_up_payments(
    in_payment_id text,
    in_run_id bigint,
    in_since timestamptz,
    in_max_bytes integer,
    in_event_ids text,
    in_event_payment_ids text,
    in_payment_ids text
)
RETURNS TABLE (
    recorded_id text, id text, type text, outcome text, own text[], line text, state text, version integer
)
LANGUAGE plpgsql
AS $function$
DECLARE
    part_ends CONSTANT text := chr(30);
    item_ends CONSTANT text := chr(31);
    part text;
    part_ids text[];
    part_event_ids text[];
    parts_of_payments text[] := string_to_array(in_event_payment_ids, part_ends);
    number integer := 0;
BEGIN
    SET LOCAL plan_cache_mode = force_custom_plan;
    FOREACH part IN ARRAY string_to_array(in_event_ids, part_ends) LOOP
        number := number + 1;
        part_event_ids := string_to_array(part, item_ends);
        part_ids := string_to_array(parts_of_payments[number], item_ends);
        RETURN QUERY SELECT event.event_id, event.payment_id, event.type::text, event.outcome::text,
            CASE WHEN event.run_id = in_run_id AND event.recorded_at >= in_since
                 THEN ARRAY[event.source::text, event.line::text, event.reason::text, event.state_before::text,
                            event.state_after::text] END,
            CASE WHEN pg_catalog.pg_column_size(event.payload) <= in_max_bytes THEN event.payload::text
                 ELSE pg_catalog.encode(sha256(pg_catalog.convert_to(event.payload::text, 'UTF8')), 'hex') END,
            NULL, NULL::integer
        FROM unnest(part_ids, part_event_ids) AS pair(payment_id, event_id)
        JOIN payproc.events AS event ON event.payment_id = pair.payment_id AND event.event_id = pair.event_id
        WHERE event.payment_id = ANY (part_ids);
    END LOOP;
    FOREACH part IN ARRAY string_to_array(in_payment_ids, part_ends) LOOP
        part_ids := string_to_array(part, item_ends);
        RETURN QUERY SELECT NULL, payment.payment_id, NULL, NULL, NULL::text[], NULL, payment.state::text,
                            payment.version
        FROM payproc.payments AS payment WHERE payment.payment_id = ANY (part_ids);
    END LOOP;
END
$function$;
