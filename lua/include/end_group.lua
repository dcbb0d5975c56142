-- What else a group of ranks changes: the last rank removes the room, and leases take part. Times are milliseconds.
--
-- INCLUDE  group, changes, numbers, room_id
--
-- KEYS begin with feed, epoch, leases, owned, cleared.

local DAY_MS = '86400000'

local function add_change(room, status, ttl_ms, words)
  local n = #changes
  changes[n + 1], changes[n + 2], changes[n + 3], changes[n + 4], changes[n + 5] = room, status, ttl_ms, false, words
end

-- As clear.lua does for the last rank.
local function remove_room(room, prefix, fields)
  if redis.pcall('HGET', prefix, 'generation') == fields.generation then redis.call('DEL', prefix) end
  redis.call('DEL', room)
  if fields.replayed and is_number(fields.generation) then
    if type(redis.pcall('HLEN', KEYS[5])) == 'table' then redis.call('DEL', KEYS[5]) end
    redis.call('HSET', KEYS[5], room_id(room), fields.generation)
    redis.call('PEXPIRE', KEYS[5], DAY_MS)
  end
  redis.pcall('ZREM', KEYS[4], room_id(room))
  add_change(room, 'absent', false, false)
end

-- As list_part.lua does for one lease.
local function list_holders(room, holders)
  local entry, listed, is_new = {}, redis.call('ZSCORE', KEYS[4], room_id(room)), false
  for _, holder in ipairs(holders) do
    if not listed then
      listed, is_new = holder, true
      add_pair(entry, holder, room_id(room))
    elseif listed - holder ~= 0 then
      add_pair(entry, holder, holder .. ' in ' .. string.format('%.0f', listed))
    end
  end
  if #entry > 0 then redis.call('ZADD', KEYS[4], unpack(entry)) end
  if is_new then redis.call('PEXPIRE', KEYS[4], ARGV[4]) end
end
