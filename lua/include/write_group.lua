-- Write what a group of ranks of one room has decided. Times are milliseconds.
--
-- INCLUDE  group, changes, clock, room_id
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

local function write_statuses(room, group)
  local fields, entry = group.fields, group.sets
  read_clock()
  local status = consensus_of_ranks(group.counts, fields.world_size)
  local ttl_ms = status == 'Success' and ARGV[3] or ARGV[2]
  redis.call('PEXPIRE', room, ttl_ms)  -- first, as in fail_room.lua
  add_pair(entry, 'status', status)
  add_pair(entry, 'updated_ms', now_ms)
  add_pair(entry, 'version', string.format('%.0f', fields.version + group.changed))
  add_pair(entry, 'counts', format_counts(group.counts))
  redis.call('HSET', room, unpack(entry))
  entry = group.deletes
  if #entry > 0 then redis.call('HDEL', room, unpack(entry)) end
  if #group.holders > 0 then list_holders(room, group.holders) end
  add_change(room, status, ttl_ms, group.words)
end

local function write_group(room, prefix, group)
  local entry = group.lengths
  if group.is_clearing then
    if type(redis.pcall('HDEL', prefix, unpack(entry))) == 'table' then redis.call('DEL', prefix) end
    if group.is_over then return remove_room(room, prefix, group.fields) end
    entry = group.sets
    if #entry == 0 then return end
    add_pair(entry, 'counts', format_counts(group.counts))
    redis.call('HSET', room, unpack(entry))
    entry = group.deletes
    redis.call('HDEL', room, unpack(entry))
    return add_change(room, group.fields.status, false, group.words)
  end
  if group.changed > 0 then write_statuses(room, group) end
  if #entry > 0 then
    add_pair(entry, 'generation', group.fields.generation)
    if type(redis.pcall('HSET', prefix, unpack(entry))) ~= 'table' then redis.call('PEXPIRE', prefix, ARGV[2]) end
  end
end
