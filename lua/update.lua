-- Merge one status into each room, by the policy of the namespace. Times are milliseconds.
--
-- KEYS     feed, epoch; each: room, prefix in mode prefill; last: failed if a status is Failed
-- ARGV     feed_length, policy, ttl_ms, terminal_ttl_ms, epoch_ttl_ms; each: status
-- REPLY    feed_id; each: outcome, status
-- FEED     ttl_ms, status, first
-- CODES    1 CREATED, 2 ADVANCED, 3 UNCHANGED, 4 FAILED, 5 SKIPPED, -3 WORLD_SIZE
-- INCLUDE  order, refused, feed
--
-- The hot script, for a caller without rank, lease and generation: in batches 2 to 2.7 times as fast as write.lua,
-- which does the rest. So its loop is inlined, without function calls. A change to a room with ranks is refused with
-- WORLD_SIZE. An unknown status (made by hand) counts as higher than all others: it stays, and the client reports it.
-- For a room of another type, the error replaces the status; the other rooms are processed. An epoch of another type
-- refuses what would create a room: the rooms before it are done, and it is the first of the next call, which fails.

local strict, count, reply = ARGV[2] == 'strict', #ARGV - 5, {false}
local step = math.floor((#KEYS - 2 - (ARGV[6] == 'Failed' and 1 or 0)) / count)  -- the last key is of no room
local now_ms, generation, last

for i = 1, count do
  local room, incoming = KEYS[(i - 1) * step + 3], ARGV[i + 5]
  local fields = redis.pcall('HMGET', room, 'status', 'world_size')
  local current, world_size, outcome = fields.err and fields or fields[1], fields[2], 3
  if incoming == 'Failed' then
    outcome = not current and 5 or (current == 'Failed' or type(current) == 'table') and 3 or 4
  elseif not current then
    outcome = (strict and ORDER[incoming] > 2) and 5 or 1
  elseif not (strict and current == 'Failed') and ORDER[incoming] > (ORDER[current] or 9) then
    outcome = 2
  end
  if world_size and (outcome == 2 or outcome == 4) then
    outcome, current = -3, world_size
  elseif step == 2 and incoming == 'Failed' then
    local dropped = redis.pcall('HDEL', KEYS[i * 2 + 2], 'length')
    if type(dropped) == 'table' then
      outcome, current = 3, dropped
      if type(redis.pcall('HLEN', KEYS[i * 2 + 2])) ~= 'table' then  -- as in write_room.lua
        redis.call('HDEL', KEYS[i * 2 + 2], 'length')
      end
    end
  end

  if outcome == 1 and not last then
    last = redis.pcall('HGET', KEYS[2], 'generation') or ''
    if type(last) == 'table' then
      if i > 1 then break end
      return last
    end
  end
  if outcome == 1 or outcome == 2 or outcome == 4 then
    if not now_ms then  -- as in clock.lua; many updates change nothing and need no time
      local time = redis.call('TIME')
      local micros = string.sub('00000' .. time[2], -6)
      now_ms, generation = time[1] .. string.sub(micros, 1, 3), time[1] .. micros
    end
    local ttl_ms = (incoming == 'Success' or incoming == 'Failed') and ARGV[4] or ARGV[3]
    if outcome == 1 then
      if not renew then
        -- As in next_generation.lua. One for all rooms of a call: it only has to be above their former ones.
        if (#last > #generation or (#last == #generation and last >= generation))
          and (#last < 16 or (#last == 16 and last < '8999999999999999')) and string.find(last, '^[1-9]%d*$') then
          generation = string.format('%.0f', last + 1)
        end
        redis.call('HSET', KEYS[2], 'generation', generation)
        -- Its TTL is a week at least: every 3 hours, when the first six digits change, is often enough.
        if string.sub(last, 1, 6) ~= string.sub(now_ms, 1, 6) then redis.call('PEXPIRE', KEYS[2], ARGV[5]) end
        renew = true
      end
      redis.call('HSET', room, 'status', incoming, 'generation', generation, 'opened_ms', now_ms, 'updated_ms', now_ms)
      redis.call('PEXPIRE', room, ttl_ms)
    else
      redis.call('PEXPIRE', room, ttl_ms)  -- first, as in fail_room.lua
      if current == 'Failed' then redis.call('HDEL', room, 'reason', 'failed_by') end
      redis.call('HSET', room, 'status', incoming, 'updated_ms', now_ms)
    end
    current = incoming
    local n = #changes
    changes[n + 1], changes[n + 2], changes[n + 3] = room, incoming, ttl_ms
    changes[n + 4], changes[n + 5] = false, outcome == 1 and {'first', ''}
    if outcome == 4 then
      failures = failures or {}
      failures[room] = redis.call('HMGET', room, 'generation', 'request', 'owner', 'failed_by', 'reason')
      failures[room][6] = 'engine'
    end
  elseif outcome ~= 3 then
    refused = refused or {}
    refused[outcome] = (refused[outcome] or 0) + 1
    refused_room = room
  end
  reply[i * 2], reply[i * 2 + 1] = outcome, current
end
