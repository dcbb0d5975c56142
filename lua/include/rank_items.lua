-- The items of write_ranks.lua: the rank of each, and what it says.
--
-- INCLUDE  caller, rank_fields, rank_view, numbers, create_room, write_room, add_to_group
--
-- The words of the caller, and of what depends on its rank, are those of one item at a time.

local FIRST, WIDTH = 12, 8
local leases = {}  -- by owner

local function set_caller(i)
  local at = FIRST + (i - 1) * WIDTH
  rank, world_size, owner, incarnation = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  status_field, cleared_field, length_field = rank_fields(rank)
  lease_field = 'by:' .. rank
  return ARGV[at + 5], ARGV[at + 6], ARGV[at + 7], ARGV[at + 8]
end

local function is_lost()
  return owner ~= '' and string.find(leases[owner] or '', incarnation .. ' ', 1, true) ~= 1
end

-- Returns the outcome and the status of an item; nil if the group cannot take it.
local function add(group, i)
  local generation, incoming, _, length = set_caller(i)
  local fields, is_fenced = group.fields, generation ~= ''
  local outcome
  local view = rank_view(fields.status, fields[status_field], fields[cleared_field])
  local is_current = is_fenced and fields.generation == generation
  if group.type_error then return 3, group.type_error end
  if incoming == 'absent' then
    if not is_current then return 6, view end
    if fields.world_size ~= world_size then return -3, fields.world_size or '' end
    return add_clear(group)
  end
  if group.is_clearing then return nil end
  if incoming == '' then
    outcome = is_current and 3 or 6
  elseif fields.version and not is_number(fields.version) then
    outcome, view = -4, 'version ' .. fields.version
  elseif is_fenced and (not is_current or fields[cleared_field]) then
    outcome = 6
  elseif is_lost() then
    outcome, view = -2, owner
  elseif fields.status and (fields.world_size or '') ~= world_size then
    outcome, view = -3, fields.world_size or ''
  else
    outcome, view = add_status(group, incoming, is_fenced)
  end
  if outcome and length ~= '' and is_current then add_pair(group.lengths, length_field, length) end
  return outcome, view
end

local function write_alone(room, prefix, i)
  local generation, incoming, reason, length = set_caller(i)
  author = (owner == '' and '' or owner .. ' ') .. 'rank ' .. rank
  if length ~= '' and redis.pcall('HGET', room, 'generation') == generation then
    local stored = redis.pcall('HSET', prefix, length_field, length, 'generation', generation)
    if type(stored) ~= 'table' then redis.call('PEXPIRE', prefix, ARGV[2]) end
  end
  room_words = nil
  local is_prefill = ARGV[12] == 'prefill'
  local outcome, status = write_room(room, prefix, incoming, generation, reason, is_lost(), is_prefill)
  if #new_parts > 0 then list_new_rooms() end  -- before another rank takes part
  new_parts[1], new_parts[2] = nil, nil
  return outcome, status
end
