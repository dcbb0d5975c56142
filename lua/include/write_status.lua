-- Write the status of the caller's rank, and what follows from it: consensus, version, reason, TTL, feed. Times are
-- milliseconds.
--
-- INCLUDE  clock, changes, caller, rank_status, take_part, create_room

-- Writes all fields of a new room. Returns whether it has a reason, and what the feed says of it: a follower must drop
-- the ranks of a former generation, or of a room that has expired.
local function write_first(room, fields, status, reason)
  local entry, n, has_reason = room_words, shared_count, false
  local name, value, name_2, value_2 = 'owner', owner, nil, nil
  if fields.request ~= '' then
    entry[n + 1], entry[n + 2], n = 'request', fields.request, n + 2
    name_2, value_2 = 'request', fields.request
  end
  if owner == '' then name, value, name_2, value_2 = name_2, value_2, nil, nil end
  local words = {'first', fields.generation, name, value, name_2, value_2}
  if rank ~= '' then
    words = {'first:' .. rank, status, 'first', fields.generation, name, value, name_2, value_2}
    local version = string.format('%.0f', (fields.version or 0) + 1)
    entry[n + 1], entry[n + 2], entry[n + 3], entry[n + 4], n = status_field, status, 'version', version, n + 4
    entry[n + 1], entry[n + 2], n = 'counts', fields.counts, n + 2
  end
  if fields.status == 'Failed' then
    has_reason = reason ~= ''
    if has_reason then
      entry[n + 1], entry[n + 2], n = 'reason', reason, n + 2
    end
    if author ~= '' then
      entry[n + 1], entry[n + 2], n = 'failed_by', author, n + 2
    end
  end
  entry[2] = fields.status
  redis.call('HSET', room, unpack(entry, 1, n))
  return has_reason, words
end

-- Adds to fields what it writes. The first reason stays.
local function write_status(room, fields, status, reason)
  if not now_ms then read_clock() end
  local previous, is_new, is_first, words = fields.status, is_created, false, false
  is_created = false
  if rank == '' then fields.status = status else set_rank_status(fields, status) end
  local ttl_ms = (fields.status == 'Success' or fields.status == 'Failed') and ARGV[3] or ARGV[2]
  if is_new then is_first, words = write_first(room, fields, status, reason) end
  redis.call('PEXPIRE', room, ttl_ms)  -- of a room that exists, first, as in fail_room.lua
  if not is_new and rank == '' then
    redis.call('HSET', room, 'status', status, 'updated_ms', now_ms)
  elseif not is_new then
    local version = string.format('%.0f', (fields.version or 0) + 1)
    redis.call(
      'HSET', room, status_field, status, 'status', fields.status, 'updated_ms', now_ms, 'version', version,
      'counts', fields.counts
    )
    words = {'rank:' .. rank, status}
  end
  if rank ~= '' then take_part(room, fields) end
  if fields.status ~= 'Failed' then
    if previous == 'Failed' then redis.call('HDEL', room, 'reason', 'failed_by') end
  elseif not is_new then
    is_first = reason ~= '' and redis.call('HSETNX', room, 'reason', reason) == 1
    -- If the room had failed before, or is created Failed, the caller is not the cause.
    if previous ~= 'Failed' and author ~= '' then redis.call('HSETNX', room, 'failed_by', author) end
  end
  local n = #changes
  changes[n + 1], changes[n + 2], changes[n + 3] = room, fields.status, ttl_ms
  changes[n + 4], changes[n + 5] = is_first and reason, words
  if status == 'Failed' and (is_first or previous ~= 'Failed') then
    failures = failures or {}
    failures[room] = redis.call('HMGET', room, 'generation', 'request', 'owner', 'failed_by', 'reason')
    failures[room][6] = reason == 'Aborted by AbortReq.' and 'abort' or 'engine'  -- what SGLang's abort says
  end
end
