# PayPal's events as input for payproc; your_own.md beside this file explains the mapping.
#
#   set -o pipefail
#   jq -cf sample_events/psp/paypal.jq paypal.jsonl | payproc ingest -
#
# --arg mode test   take the events of the sandbox, and only those

def recipe: "paypal.jq";
def options: {mode: ["live", "test"]};
def foreign: "! not a PayPal event";
def page: .events | arrays;
def time: .create_time;

# Events do not name their mode, but their links lead to the sandbox.
def hrefs: .links? | arrays | .[].href? | strings;
def is_test: [hrefs, (.resource | objects | hrefs)] | any(contains("sandbox.paypal.com"));

# The id at the end of a link such as https://api.paypal.com/v2/payments/captures/2AB.
def linked($kind): [.resource | hrefs | split("/") | select(.[-2] == $kind) | .[-1]][0];
def units: try (.value // .total | tonumber * 1000 | round | fabs) catch -0.5;

# Authorization, capture and refund have ids of their own. A payment is an authorization, or a
# capture or sale without one. A refund names its capture; judge finds the authorization behind it.
def parent:
  .resource.supplementary_data.related_ids.authorization_id? // .resource.sale_id // .resource.capture_id
  // if .resource_type == "refund" then linked("captures")
     elif .resource_type == "capture" then linked("authorizations")
     else null end;

# Ids with a missing part are null, so payproc reports the line.
def joined: if all(. != null and . != "") then map(tostring) | join(":") else null end;

def event($payment; $fact; $type):
  { event_id: ([$fact, $type] | joined), payment_id: $payment, type: $type, psp: .event_type,
    created: .create_time, event: .id, id: .resource.id, amount: (.resource.amount // .resource.dispute_amount),
    status: (.resource.status // .resource.state),
    merchant_id: [.resource.payee | objects | .merchant_id][0], live: (is_test | not),
    implied: ($type == "authorize" and (.event_type | startswith("PAYMENT.AUTHORIZATION.") | not)) };

def resource_steps($payment):
  (.event_type | split(".")) as [$_, $kind, $what]
  | .resource.id as $id
  | if $kind == "AUTHORIZATION" then
      if $what == "VOIDED" or .resource.status == "DENIED" then event($id; $id; "fail")
      elif $what == "CREATED" and .resource.status != "PENDING" then event($id; $id; "authorize")
      else event($id; .id; "flag") end
    elif $what == "PENDING" then .event_type
    elif $kind == "REFUND" then event($payment; .id; "flag")
    elif $what == "COMPLETED" then event($payment; $payment; "authorize"), event($payment; $id; "capture")
    elif $what == "REFUNDED" and .resource_type == "refund" then
      event($payment; $id; "flag")
      + (.resource | {parent: $payment,
          refunded: (.seller_payable_breakdown.total_refunded_amount // .total_refunded_amount)})
    elif ($what == "DENIED" or $what == "DECLINED") and $payment == $id then event($payment; $id; "fail")
    else event($payment; .id; "flag") end;

# Kinds about no payment, or that repeat what one reports.
def no_payment: {
  BILLING: 1, "BILLING_AGREEMENTS": 1, CATALOG: 1, CHECKOUT: 1, CUSTOMER: 1, IDENTITY: 1, INVOICING: 1, MERCHANT: 1,
  "PAYMENT-NETWORKS": 1, "PAYMENT.ORDER": 1, "PAYMENT.PAYOUTS-ITEM": 1, "PAYMENT.PAYOUTSBATCH": 1, VAULT: 1,
  "PAYMENT.REFERENCED-PAYOUT-ITEM": 1, PAYMENTS: 1
};

def events:
  if (.event_type | type) != "string" or (.resource | type) != "object" then foreign
  elif {"PAYMENT.AUTHORIZATION": 1, "PAYMENT.CAPTURE": 1, "PAYMENT.SALE": 1, "PAYMENT.REFUND": 1}[
    .event_type | split(".")[:2] | join(".")] then resource_steps(parent // .resource.id)
  elif .event_type | contains(".DISPUTE.") then
    [.resource.disputed_transactions | arrays[] | objects.seller_transaction_id | strings] as $payments
    | if $payments == [] then "! \(.event_type), which names no payment"
      else
        $payments[] as $payment
        | event($payment; [.id, $payment] | joined; "flag")
      end
  elif no_payment[.event_type | split(".")[0]] or no_payment[.event_type | split(".")[:2] | join(".")] then .event_type
  elif parent then event(parent; .id; "flag")
  else "! \(.event_type), which names no payment" end;

def put($key; $value): setpath([$key]; $value);
def number_at($key): if .[$key] == null then 0 else .[$key] end;

# A fact that several messages imply is printed once. The common part has yet to count it as printed.
def tell($event):
  "told \($event.event_id)" as $told
  | ($event.implied == true and .[$told] == true) as $known
  | put($told; $event.event_id != null)
  | if $known then put("printed"; number_at("printed") - 1) | put("out"; null) else put("out"; $event) end;

# Each capture and refund counts once. A refund is whole if it completes the sum of the captures.
def remember($event):
  (if $event.parent == null then $event.payment_id else $event.parent end) as $parent
  | "payment \($parent)" as $known
  | (if .[$known] == null then $event.payment_id else .[$known] end) as $payment
  | "captured \($payment)" as $captured
  | "refunded \($payment)" as $refunded
  | "refunded of \($parent)" as $part
  | "done \($event.id)" as $done
  | [$event.amount | units][0] as $amount
  | [$event.refunded | units][0] as $all
  | if .[$done] != null then .
    elif $event.type == "capture" then
      put($done; "capture") | put("payment \($event.id)"; $payment) | put($captured; number_at($captured) + $amount)
    elif $event.psp | endswith(".REFUNDED") then
      number_at($part) as $before
      | ([$all, $before + $amount] | max) as $after
      | (number_at($refunded) + $after - $before) as $sum
      | put($part; $after) | put($refunded; $sum)
      | put($done; if $sum == .[$captured] and $after > $before then "refund" else "flag" end)
    else . end
  | (if .[$done] == "refund" then "refund" else "flag" end) as $refund
  | ($event.psp | endswith(".REFUNDED")) as $is_refund
  | tell($event | .payment_id = $payment
    | if $is_refund then .type = $refund | .event_id = "\(.id):\($refund)" else . end);
def judge($event): .out | if . == null then empty else del(.implied) end;

# ---- The same in every recipe: options, messages, envelopes, counts and the report -----------------

def drain: (try (input | null) catch .) as $problem
  | if $problem == "break" or $problem == "No more inputs" then . else drain end;

# jq 1.6 would run this program anew on the rest of the input, so read that first.
def stop($code): "\(recipe): \(.)\n" as $line | drain | $line | halt_error($code);

def unknown_options:
  $ARGS.named | to_entries[] | .value as $value | select(any(options[.key] // [] | .[]; . == $value) | not)
  | "unknown --arg \(.key) \(.value), expected "
    + ([options | to_entries[] | "--arg \(.key) \(.value | join("|"))"] | join(", "));

# After a damaged message jq would go on in the middle of it.
def messages:
  ., (try inputs catch (
    "stopped at a message that is not JSON (\(.)); mend it and run all again. All printed events are right" | stop(5)));

# EventBridge; CloudEvents; Kafka, with or without Connect; SQS; SNS; a log of requests.
def envelope:
  if (.["detail-type"] | type) == "string" then .detail
  elif has("specversion") then .data
  elif has("topic") or has("schema") then .payload // .value
  else
    (.isBase64Encoded == true) as $encoded
    | .Records // .Messages // .Message // .Sns // .Body // .body
    | if $encoded and type == "string" then (try @base64d catch "") else . end
  end;

# A message may be JSON in a string.
def items:
  def oldest_first:
    if length < 2 then .
    else
      [.[0], .[-1] | objects | [items][0] | objects | time | values] as [$first, $last]
      | if $last != null and $first > $last then reverse else . end
    end;
  if type == "array" then oldest_first[] | items
  elif type == "string" then (try [fromjson] catch [""])[0] | if type == "array" or type == "object" then items else . end
  elif type != "object" then .
  else [page, envelope][0] as $inner | if $inner == null then . else $inner | items end end;

# An object is an event to print, a string a kind that is left out. An array holds an event that is
# only remembered, because payproc has it on record, or because of the kind beside it.
def results:
  ($ARGS.named.mode == "test") as $test
  | try (
    if type != "object" then foreign
    elif .event_id and .payment_id and .psp then [.]
    elif is_test != $test then
      if $test then "! live events, because of --arg mode test"
      else "! test-mode events; --arg mode test takes them, and only them" end
    else events end
  ) catch "! messages that the recipe cannot read: \(.)";

def add_one($path): setpath($path; getpath($path) + 1);

# Kinds come from outside: printable ASCII only.
def shown: .[:120] | explode | map(if 31 < . and . < 127 then . else 63 end) | implode;

def report:
  [.left_out // {} | to_entries | sort_by(-.value, .key)[] | .key |= shown] as $kinds
  | ($kinds | map(select(.key | startswith("! ") | not))) as $known
  | "\(recipe): \(.printed // 0) events printed, \($kinds | map(.value) | add // 0) messages left out"
    + if $known == [] then "" else ": " + ($known[:20] | map("\(.value) \(.key)") | join(", ")) end
    + if $known[20:] == [] then "" else ", \($known[20:] | length) more kinds" end,
    ($kinds[] | select(.key | startswith("! ")) | "\(recipe): LEFT OUT \(.value): \(.key[2:])");

first(unknown_options | stop(2)),
foreach ((messages | items | results), null) as $result ({};
  # The state has one level for payments and one for kinds, because jq copies what is deeper.
  if $result == null then .
  elif $result | type == "string" then add_one(["left_out", $result])
  elif $result | type == "array" then
    remember($result[0]) | if $result[1] then add_one(["left_out", $result[1]]) else . end
  else remember($result) | add_one(["printed"]) end;
  if $result == null then [report] | join("\n") + "\n" | halt_error(0)
  elif $result | type == "object" then judge($result) | with_entries(select(.value != null))
  else empty end)
