-- Merge one status into each room, by the policy of the namespace. Times are milliseconds.
--
-- KEYS   each: room, prefix in mode prefill
-- ARGV   policy, ttl_ms, terminal_ttl_ms; each: status
-- REPLY  each: outcome, status
-- FEED   nothing
-- CODES  1 CREATED, 2 ADVANCED, 3 UNCHANGED, 4 FAILED, 5 SKIPPED
--
-- Failed sorts lowest but means the end, so it is decided before the ranks are compared. A status that is none of
-- ours (made by hand) ranks above all: it is left alone, and the client says so.

local RANK = {Failed = 0, Bootstrapping = 1, WaitingForInput = 2, Transferring = 3, Success = 4}
local strict = ARGV[1] == 'strict'
local count = #ARGV - 3
local step = #KEYS / count
local now
local reply = {}

for i = 1, count do
  local room, incoming = KEYS[(i - 1) * step + 1], ARGV[i + 3]
  local current = redis.call('HGET', room, 'status')
  local outcome = 3
  if incoming == 'Failed' then
    if step == 2 then redis.call('HDEL', KEYS[i * 2], 'length') end
    if not current then
      outcome = 5
    elseif current ~= 'Failed' then
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
    else
      redis.call('HSET', room, 'status', incoming, 'updated_ms', now)
    end
    current = incoming
    local terminal = incoming == 'Success' or incoming == 'Failed'
    redis.call('PEXPIRE', room, terminal and ARGV[3] or ARGV[2])
  end
  reply[i * 2 - 1], reply[i * 2] = outcome, current
end
return reply
