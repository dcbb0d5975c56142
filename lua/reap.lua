-- Fail each live room in which a lost lease holds a part, with all its ranks. Times are milliseconds.
--
-- KEYS     feed, owned, leases; each: room, prefix in mode prefill; last: failed
-- ARGV     feed_length, terminal_ttl_ms; each: incarnation, reason
-- REPLY    feed_id; each: outcome, status
-- FEED     ttl_ms, status, reason
-- CODES    3 UNCHANGED, 4 FAILED, 5 SKIPPED, 6 STALE
-- INCLUDE  numbers, is_above, fail_room, list_part, read_fields, feed
--
-- A room that is absent, or in which the lease holds no part, is SKIPPED. In any case it is no longer listed for the
-- lost lease, but for another that holds a part of it. Where the lease is not marked as lost, another has reaped it, or
-- it is held again since a loss of data: then the room is STALE, and nothing is written. failed_by is the owner that
-- the reason names, and its rank. leases counts what has failed. For a room of another type, the error replaces the
-- status; so does a version that is no number (both made by hand). The other rooms are processed.

local count = (#ARGV - 2) / 2
local step = (#KEYS - 4) / count
local now_ms
local reply = {false}

local function holders(fields)
  local found = {}
  for name, value in pairs(fields) do
    if (name == 'incarnation' or string.find(name, '^by:')) and is_number(value) then found[value] = name end
  end
  return found
end

for i = 1, count do
  local room, incarnation, reason = KEYS[(i - 1) * step + 4], ARGV[i * 2 + 1], ARGV[i * 2 + 2]
  local is_lost = redis.call('HEXISTS', KEYS[3], 'lost ' .. incarnation) == 1
  local fields, type_error = read_fields(room)
  local outcome, status, parts = 3, type_error or fields.status or false, holders(fields)
  if not is_lost then
    outcome = 6
  elseif not type_error and not parts[incarnation] then
    outcome = 5
  elseif fields.version and not is_number(fields.version) then
    status = 'version ' .. fields.version
  elseif fields.status and status ~= 'Success' and status ~= 'Failed' then
    if step == 2 then redis.call('DEL', KEYS[i * 2 + 3]) end
    if not now_ms then  -- as in clock.lua, but without a function, for speed
      local time = redis.call('TIME')
      now_ms = time[1] .. string.sub('00000' .. time[2], -6, -4)
    end
    local author, n = string.match(reason, '^owner (%S+)') or '', #changes
    local lost_rank = string.match(parts[incarnation], '^by:(.*)')
    if lost_rank and author ~= '' then author = author .. ' rank ' .. lost_rank end
    outcome, status, parts = 4, 'Failed', {}
    changes[n + 1], changes[n + 2], changes[n + 3] = room, status, ARGV[2]
    changes[n + 4], changes[n + 5] = fail_room(room, fields.world_size, reason, author, now_ms, ARGV[2]), false
    failures = failures or {}
    failures[room] = redis.call('HMGET', room, 'generation', 'request', 'owner', 'failed_by', 'reason')
    failures[room][6] = string.find(reason, ' left$') and 'left' or 'lost'
    redis.pcall('HINCRBY', KEYS[3], 'failed ' .. incarnation, '1')  -- anything may have been written there by hand
  elseif fields.world_size then
    redis.call('HDEL', room, parts[incarnation])
  end
  local score = is_lost and redis.pcall('ZSCORE', KEYS[2], room_id(room))
  if type(score) == 'string' and score - incarnation == 0 then
    local heir
    for other in pairs(parts) do
      if other ~= incarnation and (not heir or is_above(heir, other)) then heir = other end
    end
    if heir then
      redis.call('ZREM', KEYS[2], '')  -- nothing, first, as in fail_room.lua
      redis.call('ZADD', KEYS[2], heir, room_id(room))
      for other in pairs(parts) do
        if other ~= incarnation then list_part(KEYS[2], room, other) end
      end
    else
      redis.call('ZREM', KEYS[2], room_id(room))
    end
  end
  reply[i * 2], reply[i * 2 + 1] = outcome, status
  if fields_read > MAX_FIELDS then break end
end
