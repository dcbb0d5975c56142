-- Write what a group of ranks of one room has decided. Times are milliseconds.
--
-- INCLUDE  group, end_group, counts, clock

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
