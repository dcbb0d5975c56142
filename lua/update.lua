-- Merge one status into each room, by the policy of the namespace. Times are milliseconds.
--
-- KEYS   feed; each: room, prefix in mode prefill
-- ARGV   feed_length, policy, ttl_ms, terminal_ttl_ms; each: status
-- REPLY  feed_id; each: outcome, status
-- FEED   ttl_ms, status
-- CODES  1 CREATED, 2 ADVANCED, 3 UNCHANGED, 4 FAILED, 5 SKIPPED
-- USES   feed
--
-- Failed sorts lowest but means the end, so it is decided before the ranks are compared. A status that is none of
-- ours (made by hand) ranks above all: it is left alone, and the client says so. A key of another type puts its error
-- in the place of its status; the other rooms go on.

local RANK = {Failed = 0, Bootstrapping = 1, WaitingForInput = 2, Transferring = 3, Success = 4}
local strict = ARGV[2] == 'strict'
local count = #ARGV - 4
local step = (#KEYS - 1) / count
local now
local reply, changes, renew = {false}, {}, false

for i = 1, count do
  local room, incoming = KEYS[(i - 1) * step + 2], ARGV[i + 4]
  local current = redis.pcall('HGET', room, 'status')
  local outcome = 3
  if incoming == 'Failed' then
    if step == 2 then
      local dropped = redis.pcall('HDEL', KEYS[i * 2 + 1], 'length')
      if type(dropped) == 'table' then current = dropped end
    end
    if not current then
      outcome = 5
    elseif current ~= 'Failed' and type(current) ~= 'table' then
      outcome = 4
    end
  elseif not current then
    outcome = (strict and RANK[incoming] > 2) and 5 or 1
  elseif not (strict and current == 'Failed') and RANK[incoming] > (RANK[current] or 9) then
    outcome = 2
    if current == 'Failed' then redis.call('HDEL', room, 'reason') end
  end

  if outcome == 1 or outcome == 2 or outcome == 4 then
    if not now then
      -- Many updates change nothing and need no time. Milliseconds as text: of the microseconds' six digits, the
      -- first three.
      local time = redis.call('TIME')
      now = time[1] .. string.sub('00000' .. time[2], -6, -4)
    end
    if outcome == 1 then
      redis.call('HSET', room, 'status', incoming, 'opened_ms', now, 'updated_ms', now)
      renew = true
    else
      redis.call('HSET', room, 'status', incoming, 'updated_ms', now)
    end
    current = incoming
    local ttl_ms = (incoming == 'Success' or incoming == 'Failed') and ARGV[4] or ARGV[3]
    redis.call('PEXPIRE', room, ttl_ms)
    local n = #changes
    changes[n + 1], changes[n + 2], changes[n + 3], changes[n + 4] = room, incoming, ttl_ms, false
  end
  reply[i * 2], reply[i * 2 + 1] = outcome, current
end
