# Shopify's transactions as input for payproc; your_own.md beside this file explains the mapping.
#
#   set -o pipefail
#   jq -cf sample_events/psp/shopify.jq shopify.jsonl | payproc ingest -
#
# --arg mode test   take the transactions of test mode, and only those

def recipe: "shopify.jq";
def options: {mode: ["live", "test"]};
def foreign: "! not a Shopify transaction";

# A refund or a list of the API holds transactions; an envelope of EventBridge holds a payload.
def page: (.transactions | arrays), (if .metadata then .payload | objects | [.] else empty end);
def time: .created_at;
def is_test: .test == true;

# Ids are numbers of 64 bits. jq 1.6 rounds those over 2^53, and a rounded id is another payment's.
def exact:
  if type == "number" and . >= 9007199254740992
    and ("9007199254740993" | fromjson | tostring) != "9007199254740993" then
    error("ids over 2^53, which this jq rounds; use jq 1.7 or later")
  else tostring end;

# A payment is an authorization or a sale. What follows names its parent, and a refund's parent may
# be a capture; judge finds the payment behind it. A capture implies its authorization.
def event($type):
  (.id | exact) as $id
  | (.parent_id | if . == null then $id else exact end) as $parent
  | { event_id: "\(if $type == "authorize" then $parent else $id end):\($type)", payment_id: $parent, type: $type,
      psp: "\(.kind) \(.status)", created: .created_at, id: $id, amount, currency, gateway,
      order_id: (.order_id | exact), test, implied: ($type == "authorize" and .kind != "authorization") };

def transaction:
  (.kind == "authorization" or .kind == "emv_authorization" or .kind == "sale") as $is_first
  | if .status == "pending" or .status == "awaiting_response" or .kind == "change" or .kind == "suggested_refund" then "\(.kind) \(.status)"
    elif .parent_id == null and ($is_first | not) then event("flag")
    elif .status == "success" then
      if .kind == "sale" or .kind == "capture" then event("authorize"), event("capture")
      elif $is_first then event("authorize")
      elif .kind == "void" then event("fail")
      else event("flag") end
    elif .parent_id == null and (.status == "failure" or .status == "error") then event("fail")
    else event("flag") end;

def dispute:
  (.order_id | exact) as $order
  | { event_id: "dispute:\(.id | exact):\(.status):flag", payment_id: "order:\($order)", type: "flag",
      psp: "\(.type) \(.status)", created: .initiated_at, amount, currency, order_id: $order };

def events:
  if .id == null then foreign
  elif (.kind | type) == "string" and (.status | type) == "string" then transaction
  elif .type == "chargeback" or .type == "inquiry" then
    if .order_id == null then "! \(.type), which names no order" else dispute end
  else foreign end;

# A sum with an unknown amount fits no other.
def units: try (tonumber * 1000 | round) catch -0.5;

def put($key; $value): setpath([$key]; $value);
def number_at($key): if .[$key] == null then 0 else .[$key] end;

# A fact that several messages imply is printed once. The common part has yet to count it as printed.
def tell($event):
  "told \($event.event_id)" as $told
  | ($event.implied == true and .[$told] == true) as $known
  | put($told; $event.event_id != null)
  | if $known then put("printed"; number_at("printed") - 1) | put("out"; null) else put("out"; $event) end;

# Each transaction counts once. A refund is whole if it completes the sum of the captures.
def remember($event):
  "payment \($event.payment_id)" as $known
  | (if .[$known] == null then $event.payment_id else .[$known] end) as $payment
  | "captured \($payment) \($event.currency)" as $captured
  | "refunded \($payment) \($event.currency)" as $refunded
  | "done \($event.id)" as $done
  | "payment order:\($event.order_id)" as $order
  | [$event.amount | units][0] as $amount
  | if $event.id == null or .[$done] != null then .
    elif $event.type == "capture" then
      put($done; "capture") | put("payment \($event.id)"; $payment) | put($captured; number_at($captured) + $amount)
      | put($order; if .[$order] == null or .[$order] == $payment then $payment else "order:\($event.order_id)" end)
    elif $event.psp == "refund success" then
      put($refunded; number_at($refunded) + if $amount < 0 then -0.25 else $amount end)
      | put($done; if .[$refunded] == .[$captured] then "refund" else "flag" end)
    else . end
  | (if .[$done] == "refund" then "refund" else "flag" end) as $refund
  | tell($event | .payment_id = $payment
    | if .psp == "refund success" then .type = $refund | .event_id = "\(.id):\($refund)" else . end);
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
